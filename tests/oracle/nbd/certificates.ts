import { execFileSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']

/** Signs certificates for tests; its own is `NAME/ca-cert.pem` in the folder, as QEMU's credentials want it. */
export class Authority {
  readonly #folder: string
  readonly #name: string

  constructor(folder: string, name: string) {
    this.#folder = folder
    this.#name = name
    mkdirSync(join(folder, name))
    const files = ['-keyout', `${name}.key`, '-out', `${name}/ca-cert.pem`]
    const extensions = ['-addext', 'keyUsage=critical,keyCertSign,cRLSign']
    this.#openssl('req', '-x509', ...newKey, ...files, '-subj', `/CN=${name}`, '-days', '30', ...extensions)
  }

  #openssl(...args: string[]): void {
    execFileSync('openssl', args, { cwd: this.#folder, stdio: 'pipe' })
  }

  /** Makes `DIR/SIDE-cert.pem` and its key for a subject as openssl takes it, `/CN=somebody`, good for `localhost`. */
  sign(side: 'server' | 'client', subject: string, dir = this.#name): void {
    mkdirSync(join(this.#folder, dir), { recursive: true })
    const key = `${dir}/${side}-key.pem`
    this.#openssl('req', ...newKey, '-utf8', '-keyout', key, '-out', 'r.csr', '-subj', subject)
    const usage = side === 'server' ? 'serverAuth' : 'clientAuth'
    writeFileSync(
      join(this.#folder, 'ext'),
      `subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=${usage}\nkeyUsage=digitalSignature\nbasicConstraints=CA:FALSE\n`,
    )
    const authority = ['-CA', `${this.#name}/ca-cert.pem`, '-CAkey', `${this.#name}.key`, '-CAcreateserial']
    const out = ['-days', '30', '-extfile', 'ext', '-out', `${dir}/${side}-cert.pem`]
    this.#openssl('x509', '-req', '-in', 'r.csr', ...authority, ...out)
  }
}
