import type { Dispatcher } from 'undici'
import type { HttpClient, HttpClientOptions, HttpRequest, HttpResponse } from '../../../host/index.js'
import { httpError } from './errors.js'

/**
 * A client on undici: about four times the requests of the global `fetch`, and it knows proxies and
 * certificates. Proxies are those of `http_proxy`, `https_proxy` and `no_proxy`.
 */
export async function openHttpClient(options: HttpClientOptions): Promise<HttpClient> {
  const { Agent, EnvHttpProxyAgent } = await import('undici')
  const common = {
    connections: options.connections,
    pipelining: 1,
    headersTimeout: options.timeout,
    bodyTimeout: options.timeout,
    connect: { timeout: options.timeout, rejectUnauthorized: options.verifyTls },
  }
  const agent = behindProxy()
    ? new EnvHttpProxyAgent({
        ...common,
        requestTls: { rejectUnauthorized: options.verifyTls },
        proxyTls: { rejectUnauthorized: options.verifyTls },
        ...(options.proxyAuthorization === undefined ? {} : { token: options.proxyAuthorization }),
      })
    : new Agent(common)
  return new UndiciClient(agent, options.timeout)
}

function behindProxy(): boolean {
  return ['http_proxy', 'https_proxy', 'HTTPS_PROXY', 'HTTP_PROXY'].some(
    (name) => (process.env[name] ?? '') !== '',
  )
}

class UndiciClient implements HttpClient {
  readonly #agent: Dispatcher
  readonly #timeout: number

  constructor(agent: Dispatcher, timeout: number) {
    this.#agent = agent
    this.#timeout = timeout
  }

  async request({ method, url, headers, signal }: HttpRequest): Promise<HttpResponse> {
    const { origin, pathname, search } = new URL(url)
    const start = performance.now()
    const failed = (error: unknown): Error =>
      httpError(error, { url, elapsed: performance.now() - start, timeout: this.#timeout })
    let response: Dispatcher.ResponseData
    try {
      response = await this.#agent.request({
        method,
        origin,
        path: pathname + search,
        headers: { ...headers },
        signal,
      })
    } catch (error) {
      throw failed(error)
    }
    const { body } = response
    return {
      status: response.statusCode,
      header(name) {
        const value = response.headers[name]
        return Array.isArray(value) ? value.join(', ') : value
      },
      body: pieces(body, failed),
      cancel() {
        // Without a listener the abort would count as an error that nobody handles.
        body.on('error', () => undefined)
        body.destroy()
      },
    }
  }

  async close(): Promise<void> {
    await this.#agent.destroy()
  }
}

async function* pieces(
  body: AsyncIterable<Uint8Array>,
  failed: (error: unknown) => Error,
): AsyncGenerator<Uint8Array> {
  try {
    yield* body
  } catch (error) {
    throw failed(error)
  }
}
