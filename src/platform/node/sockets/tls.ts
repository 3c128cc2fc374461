import type { Duplex } from 'node:stream'
import tls from 'node:tls'
import { blockError } from '../../../errors/index.js'
import type { TlsSession } from '../../../host/index.js'
import { distinguishedName } from './distinguished-name.js'

function secureOptions(session: TlsSession): tls.SecureContextOptions {
  const { x509, psk } = session
  const options: tls.SecureContextOptions = { minVersion: 'TLSv1.2' }
  if (x509 !== undefined) {
    const bytes = (value: Uint8Array | undefined) => (value === undefined ? undefined : Buffer.from(value))
    options.ca = Buffer.from(x509.ca)
    const { certificate, key, crl, passphrase } = x509
    if (certificate !== undefined && key !== undefined) {
      options.cert = bytes(certificate)
      options.key = bytes(key)
    }
    if (crl !== undefined) {
      options.crl = Buffer.from(crl)
    }
    if (passphrase !== undefined) {
      options.passphrase = passphrase
    }
  }
  if (psk !== undefined) {
    // Node's keys of this kind stop at TLS 1.2, and its default ciphers leave them out.
    options.maxVersion = 'TLSv1.2'
    options.ciphers = 'PSK+AESGCM:PSK+CHACHA20:ECDHE-PSK-CHACHA20-POLY1305:DHE-PSK-AES256-GCM-SHA384:PSK'
  }
  return options
}

/** OpenSSL's text without its codes. */
function reasonOf(error: unknown): string {
  const { reason, message } = error as { reason?: unknown; message?: unknown }
  return typeof reason === 'string' ? reason : String(message)
}

/** The name of who is at the other end. @throws RangeError if the certificate tells none */
function peerOf(secure: tls.TLSSocket): string {
  const { raw } = secure.getPeerCertificate() as Partial<tls.PeerCertificate>
  if (raw === undefined) {
    throw new RangeError('No certificate was found')
  }
  return distinguishedName(raw)
}

/** Encrypts a connected stream. @throws BlockError with the stream destroyed */
export function startTls(stream: Duplex, session: TlsSession): Promise<tls.TLSSocket> {
  const { psk, verifyPeer, hostname } = session
  return new Promise((resolve, reject) => {
    const fail = (text: string, error?: unknown): void => {
      secure?.destroy()
      stream.destroy()
      reject(blockError('EIO', text, error === undefined ? undefined : { cause: error }))
    }
    let secure: tls.TLSSocket | undefined
    const failed = (error: unknown): void => fail(`TLS handshake failed: ${reasonOf(error)}`, error)
    const closed = (): void => {
      fail('TLS handshake failed: The TLS connection was non-properly terminated.')
    }
    const succeed = (): void => {
      const connected = secure as tls.TLSSocket
      connected.off('error', failed)
      connected.off('end', closed)
      connected.off('close', closed)
      resolve(connected)
    }
    try {
      const context = tls.createSecureContext(secureOptions(session))
      if (session.side === 'server') {
        secure = new tls.TLSSocket(stream, {
          isServer: true,
          secureContext: context,
          requestCert: verifyPeer && psk === undefined,
          rejectUnauthorized: verifyPeer && psk === undefined,
          ...(psk === undefined
            ? {}
            : { pskCallback: (_socket: unknown, user: string) => psk.keyOf(user) ?? null }),
        } as tls.TLSSocketOptions)
        secure.once('secure', () => {
          const error = (secure as unknown as { ssl?: { verifyError(): Error | null } }).ssl?.verifyError()
          if (verifyPeer && psk === undefined && error !== null && error !== undefined) {
            fail(`The certificate is not trusted: ${error.message}`, error)
            return
          }
          if (verifyPeer && psk === undefined && session.authorize !== undefined) {
            try {
              session.authorize(peerOf(secure as tls.TLSSocket))
            } catch (denied) {
              fail(denied instanceof Error ? denied.message : String(denied), denied)
              return
            }
          }
          succeed()
        })
      } else {
        secure = tls.connect({
          socket: stream,
          secureContext: context,
          rejectUnauthorized: verifyPeer && psk === undefined,
          ...(hostname === undefined || /^[\d.]+$|:/.test(hostname) ? {} : { servername: hostname }),
          checkServerIdentity: (_name: string, certificate: tls.PeerCertificate) =>
            hostname === undefined ? undefined : tls.checkServerIdentity(hostname, certificate),
          ...(psk === undefined
            ? {}
            : { pskCallback: () => ({ psk: psk.keyOf(psk.user) ?? Buffer.alloc(0), identity: psk.user }) }),
        } as tls.ConnectionOptions)
        secure.once('secureConnect', succeed)
      }
      secure.on('error', failed)
      secure.once('end', closed)
      secure.once('close', closed)
    } catch (error) {
      fail(`Cannot initialize TLS session: ${reasonOf(error)}`, error)
    }
  })
}
