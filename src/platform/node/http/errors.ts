import { type BlockError, blockError } from '../../../errors/index.js'

interface Attempt {
  readonly url: string
  /** Milliseconds since the request was made, and after which it times out. */
  readonly elapsed: number
  readonly timeout: number
}

function codeOf(error: unknown): string {
  return typeof error === 'object' && error !== null && 'code' in error ? String(error.code) : ''
}

/** The error behind wrappers: one of several addresses that were tried, or a cause. */
function root(error: unknown): unknown {
  if (error instanceof AggregateError && error.errors.length > 0) {
    return root(error.errors[0])
  }
  return error
}

/** What undici or Node threw, in curl's words. */
export function httpError(thrown: unknown, { url, elapsed, timeout }: Attempt): BlockError {
  const error = root(thrown)
  const { hostname, port, protocol } = new URL(url)
  const code = codeOf(error)
  const text = error instanceof Error ? error.message : String(error)
  const wrap = (errno: Parameters<typeof blockError>[0], message: string): BlockError =>
    blockError(errno, message, { cause: thrown })
  switch (code) {
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
    case 'EAI_NODATA':
      return wrap('ENOENT', `Could not resolve host: ${hostname}`)
    case 'ECONNREFUSED':
    case 'EHOSTUNREACH':
    case 'ENETUNREACH': {
      const where = `${hostname} port ${port === '' ? (protocol === 'https:' ? 443 : 80) : port}`
      const reason = "Couldn't connect to server"
      return wrap('ECONNREFUSED', `Failed to connect to ${where} after ${Math.floor(elapsed)} ms: ${reason}`)
    }
    case 'UND_ERR_CONNECT_TIMEOUT':
    case 'UND_ERR_HEADERS_TIMEOUT':
    case 'UND_ERR_BODY_TIMEOUT':
      return wrap('ETIMEDOUT', `Operation timed out after ${timeout} milliseconds`)
    case 'ECONNRESET':
    case 'UND_ERR_SOCKET':
      return wrap('ECONNRESET', `Connection to ${hostname} was closed`)
  }
  const certificate = /CERT|SELF_SIGNED|UNABLE_TO/.test(code)
  return wrap(certificate ? 'EPERM' : 'EIO', certificate ? `SSL certificate problem: ${text}` : text)
}
