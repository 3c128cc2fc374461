import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'

/** An OpenSSH server and an agent of its own, with keys made for the occasion. */
export class SshServer implements AsyncDisposable {
  readonly port: number
  /** The server's public key, as `known_hosts` has it: type and base64. */
  readonly publicKey: string
  readonly privateKey: string
  /** Environment in which clients find the agent. */
  readonly environment: Readonly<Record<string, string>>
  readonly #children: readonly ChildProcess[]

  private constructor(
    parts: Pick<SshServer, 'port' | 'publicKey' | 'privateKey'> & { agent: string },
    children: ChildProcess[],
  ) {
    this.port = parts.port
    this.publicKey = parts.publicKey
    this.privateKey = parts.privateKey
    this.environment = { SSH_AUTH_SOCK: parts.agent }
    this.#children = children
  }

  static async start(folder: string, port: number, sftp = 'internal-sftp'): Promise<SshServer> {
    const at = (name: string): string => join(folder, name)
    for (const name of ['host_key', 'user_key']) {
      execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', at(name)])
    }
    copyFileSync(at('user_key.pub'), at('authorized'))
    if (process.getuid?.() === 0) {
      mkdirSync('/run/sshd', { recursive: true })
    }
    writeFileSync(
      at('sshd_config'),
      [
        `Port ${port}`,
        'ListenAddress 127.0.0.1',
        `HostKey ${at('host_key')}`,
        `AuthorizedKeysFile ${at('authorized')}`,
        `PidFile ${at('pid')}`,
        'StrictModes no',
        'PasswordAuthentication no',
        'UsePAM no',
        'PermitRootLogin yes',
        'MaxStartups 100',
        `Subsystem sftp ${sftp}`,
        '',
      ].join('\n'),
    )
    const children = [
      spawn('/usr/sbin/sshd', ['-D', '-f', at('sshd_config'), '-E', at('sshd.log')], { stdio: 'ignore' }),
      spawn('ssh-agent', ['-D', '-a', at('agent')], { stdio: 'ignore' }),
    ]
    const key = execFileSync('cut', ['-d', ' ', '-f', '1,2', at('host_key.pub')], { encoding: 'utf8' }).trim()
    const server = new SshServer(
      { port, publicKey: key, privateKey: at('user_key'), agent: at('agent') },
      children,
    )
    for (let i = 0; !(existsSync(at('agent')) && (await listens(port))); i++) {
      if (i > 200) {
        await server[Symbol.asyncDispose]()
        throw new Error('the SSH server does not start')
      }
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    execFileSync('ssh-add', ['-q', at('user_key')], {
      env: { ...process.env, ...server.environment },
      stdio: 'ignore',
    })
    return server
  }

  /** Drops every connection, and takes no new ones. */
  kill(): void {
    // Each connection has processes of its own, below the server's.
    const below = (pid: string): string[] => {
      const { stdout } = spawnSync('ps', ['-o', 'pid=', '--ppid', pid], { encoding: 'utf8' })
      return [
        pid,
        ...stdout
          .split(/\s+/)
          .filter((one) => one !== '')
          .flatMap(below),
      ]
    }
    for (const pid of below(String(this.#children[0]?.pid))) {
      process.kill(Number(pid), 'SIGKILL')
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const child of this.#children) {
      if (child.exitCode === null && child.signalCode === null) {
        const ended = new Promise((resolve) => child.once('exit', resolve))
        child.kill('SIGTERM')
        await ended
      }
    }
  }
}

async function listens(port: number): Promise<boolean> {
  return await new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port })
    socket.once('error', () => resolve(false))
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
  })
}
