/** TLS credentials as objects of a layer (`tls-creds-x509`, `tls-creds-psk`). */
export * from './credentials.js'
