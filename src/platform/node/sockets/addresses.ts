import { existsSync } from 'node:fs'
import { dirname } from 'node:path'
import type { ErrnoName } from '../../../errors/index.js'
import { type BlockError, blockError, errnoError, strerror } from '../../../errors/index.js'
import type { SocketAddress } from '../../../host/index.js'
import { fromNode } from '../errors.js'

/** Bytes of `sun_path`, with the final zero. */
const unixPathBytes = 108

/** @throws BlockError if a Unix socket's path does not fit into an address */
export function checkAddress(address: SocketAddress): void {
  if (address.type === 'unix' && Buffer.byteLength(address.path) >= unixPathBytes) {
    throw blockError('EINVAL', `UNIX socket path '${address.path}' is too long`, {
      hint: `Path must be less than ${unixPathBytes} bytes`,
    })
  }
}

function resolutionError(error: unknown, address: SocketAddress): BlockError | undefined {
  const { code, syscall } = error as NodeJS.ErrnoException
  if (address.type !== 'inet' || syscall !== 'getaddrinfo') {
    return undefined
  }
  const why = code === 'EAI_AGAIN' ? 'Temporary failure in name resolution' : 'Name or service not known'
  return blockError('EINVAL', `address resolution failed for ${address.host}:${address.port}: ${why}`)
}

function codeOfSystem(error: unknown): ErrnoName {
  return fromNode(error).code
}

/** libuv says that a folder which is not there forbids it. */
function bindCode(error: unknown, path: string): ErrnoName {
  const code = codeOfSystem(error)
  return code === 'EACCES' && !existsSync(dirname(path)) ? 'ENOENT' : code
}

/** Why nothing could listen at `address`. */
export function listenError(error: unknown, address: SocketAddress): BlockError {
  const code = resolutionError(error, address)
  if (code !== undefined) {
    return code
  }
  const { code: name } = error as NodeJS.ErrnoException
  if (address.type === 'unix') {
    return name === 'EADDRINUSE'
      ? blockError('EBUSY', `Failed to bind socket to ${address.path}: Address already in use`)
      : errnoError(bindCode(error, address.path), `Failed to bind socket to ${address.path}`)
  }
  if (address.type === 'fd') {
    return blockError('EINVAL', `Failed to use socket activation: ${strerror(codeOfSystem(error))}`)
  }
  switch (name) {
    case 'EADDRINUSE':
      return blockError('EBUSY', 'Failed to find an available port: Address already in use')
    case 'EADDRNOTAVAIL':
      return blockError('EINVAL', 'Failed to bind socket: Cannot assign requested address')
    default:
      return errnoError(codeOfSystem(error), 'Failed to bind socket')
  }
}

/** Why `address` could not be reached. */
export function connectError(error: unknown, address: SocketAddress): BlockError {
  const resolution = resolutionError(error, address)
  if (resolution !== undefined) {
    return resolution
  }
  // Several addresses of one name were tried.
  const errors = (error as { errors?: unknown }).errors
  const first: unknown = Array.isArray(errors) ? errors[0] : error
  const name =
    address.type === 'unix'
      ? address.path
      : address.type === 'inet'
        ? `${address.host}:${address.port}`
        : String(address.fd)
  const code = codeOfSystem(first)
  return errnoError(code, `Failed to connect to '${name}'`, { cause: error })
}
