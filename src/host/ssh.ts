/** How the key of a server is checked. */
export type HostKeyCheck =
  | { readonly mode: 'none' }
  /** By `known_hosts` of the user, or of the system. */
  | { readonly mode: 'known_hosts' }
  /** By its fingerprint: hexadecimal digits, colons between them or not. */
  | { readonly mode: 'hash'; readonly type: 'md5' | 'sha1' | 'sha256'; readonly hash: string }

export interface SshPlace {
  readonly host: string
  readonly port: number
  /** Default: the user who runs the program. */
  readonly user: string | undefined
  readonly hostKey: HostKeyCheck
}

export interface SftpOpenMode {
  readonly write: boolean
  /** Makes the file, or empties it. */
  readonly create: boolean
}

/** An open file on a server. Requests may overlap. Failures are BlockErrors. */
export interface SftpFile {
  /** Bytes, when it was opened. */
  readonly size: number
  readonly isRegular: boolean
  /** Who was logged in. */
  readonly user: string
  /** Reads `bytes` bytes; what is behind the end of the file is zeroes. */
  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void>
  write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void>
  truncate(size: number): Promise<void>
  /** Makes what was written durable; false: the server cannot. */
  sync(): Promise<boolean>
  /** Closes the file and the connection. */
  close(): Promise<void>
}

/** SSH of the platform. */
export interface HostSsh {
  /**
   * Connects, checks the server's key, logs in by public key (those of the agent, then the user's own that
   * have no passphrase), and opens a file.
   *
   * @throws BlockError with QEMU's text
   */
  open(place: SshPlace, path: string, mode: SftpOpenMode): Promise<SftpFile>
}
