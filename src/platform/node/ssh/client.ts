import { readFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { homedir, userInfo } from 'node:os'
import { join } from 'node:path'
import type { AuthenticationType, AuthHandlerMiddleware, Client, SFTPWrapper, Stats } from 'ssh2'
import { blockError } from '../../../errors/index.js'
import type { SftpFile, SftpOpenMode, SshPlace } from '../../../host/index.js'
import { connectError } from '../sockets/addresses.js'
import { HostKeyChecker } from './host-key.js'
import { RemoteSftpFile, sftpError } from './sftp-file.js'

/** Milliseconds for the key exchange and the login. */
const readyTimeout = 20_000

/** Keys in OpenSSH's order of preference. */
const hostKeyTypes = [
  'ssh-ed25519',
  'ecdsa-sha2-nistp256',
  'ecdsa-sha2-nistp384',
  'ecdsa-sha2-nistp521',
  'rsa-sha2-512',
  'rsa-sha2-256',
  'ssh-rsa',
] as const

/** The types that are known of a server first: it then shows the key that can be checked. */
function preferring(known: readonly string[]) {
  const isKnown = (type: string): boolean => known.includes(type.startsWith('rsa-') ? 'ssh-rsa' : type)
  return [...hostKeyTypes].sort((a, b) => Number(isKnown(b)) - Number(isKnown(a)))
}

/** The user's own keys. Those with a passphrase are left to the agent. */
function ownKeys(): Buffer[] {
  const keys: Buffer[] = []
  for (const name of ['id_ed25519', 'id_ecdsa', 'id_rsa']) {
    try {
      keys.push(readFileSync(join(homedir(), '.ssh', name)))
    } catch {
      // Not there, or not ours to read.
    }
  }
  return keys
}

function connectSocket({ host, port }: SshPlace): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port, noDelay: true })
    const fail = (error: Error): void => {
      reject(connectError(error, { type: 'inet', host, port }))
    }
    socket.once('error', fail)
    socket.once('connect', () => {
      socket.off('error', fail)
      resolve(socket)
    })
  })
}

/** Connects and logs in, and opens a file. */
export async function openSftpFile(place: SshPlace, path: string, mode: SftpOpenMode): Promise<SftpFile> {
  // CommonJS: its exports come as the default.
  const { default: ssh2 } = await import('ssh2')
  const user = place.user ?? userInfo().username
  const checker = new HostKeyChecker(place)
  const sock = await connectSocket(place)
  const client = new ssh2.Client()
  try {
    await login(client, sock, user, checker, (key) => !(ssh2.utils.parseKey(key) instanceof Error))
    const sftp = await startSftp(client)
    const handle = await new Promise<Buffer>((resolve, reject) => {
      const flags = mode.create ? 'w+' : mode.write ? 'r+' : 'r'
      sftp.open(path, flags, { mode: 0o644 }, (error, opened) => {
        if (error) {
          reject(sftpError(`failed to open remote file '${path}'`, error))
        } else {
          resolve(opened)
        }
      })
    })
    const stats = await new Promise<Stats>((resolve, reject) => {
      sftp.fstat(handle, (error, found) => {
        if (error) {
          reject(sftpError('failed to read file attributes', error))
        } else {
          resolve(found)
        }
      })
    })
    return new RemoteSftpFile(client, sftp, handle, { size: stats.size, isRegular: stats.isFile(), user })
  } catch (error) {
    client.on('error', () => undefined)
    client.destroy()
    throw error
  }
}

function login(
  client: Client,
  sock: Socket,
  username: string,
  checker: HostKeyChecker,
  isUsable: (key: Buffer) => boolean,
): Promise<void> {
  const agent = process.env.SSH_AUTH_SOCK
  const attempts: AuthenticationAttempt[] = [{ type: 'none', username }]
  if (agent !== undefined && agent !== '') {
    attempts.push({ type: 'agent', username, agent })
  }
  for (const key of ownKeys().filter(isUsable)) {
    attempts.push({ type: 'publickey', username, key })
  }
  const authHandler: AuthHandlerMiddleware = (_left, _partial, next) => {
    const attempt = attempts.shift()
    // `false` ends the attempts; the type does not know it.
    next(attempt ?? (false as unknown as AuthenticationType))
  }
  return new Promise((resolve, reject) => {
    client.once('ready', () => {
      client.removeAllListeners('error')
      resolve()
    })
    client.once('error', (error) => {
      reject(loginError(error, checker))
    })
    client.connect({
      sock,
      username,
      authHandler,
      readyTimeout,
      hostVerifier: (key: Buffer) => checker.accept(key),
      algorithms: { serverHostKey: preferring(checker.knownTypes) },
    })
  })
}

type AuthenticationAttempt =
  | { readonly type: 'none'; readonly username: string }
  | { readonly type: 'agent'; readonly username: string; readonly agent: string }
  | { readonly type: 'publickey'; readonly username: string; readonly key: Buffer }

function loginError(error: Error & { level?: string }, checker: HostKeyChecker): Error {
  if (checker.failure !== undefined) {
    return blockError('EINVAL', checker.failure, { cause: error })
  }
  if (error.level === 'client-authentication' || error.level === 'agent') {
    const text =
      'failed to authenticate using publickey authentication and the identities held by your ssh-agent'
    return blockError('EPERM', text, { cause: error })
  }
  return blockError('EINVAL', `failed to establish SSH session: ${error.message}`, { cause: error })
}

function startSftp(client: Client): Promise<SFTPWrapper> {
  return new Promise((resolve, reject) => {
    client.once('error', reject)
    client.sftp((error, sftp) => {
      client.removeAllListeners('error')
      if (error) {
        reject(blockError('EINVAL', `failed to create sftp handle: ${error.message}`, { cause: error }))
      } else {
        resolve(sftp)
      }
    })
  })
}
