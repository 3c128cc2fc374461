import type { BlockLayer } from '../graph/index.js'
import type { ByteSink, ByteSource } from '../image/index.js'
import type { ServerProcess } from './server-process.js'

/** What a tool has of the process that it runs in. Tests give one of their own. */
export interface ToolContext {
  /** The name the program was called by, without folder: it stands in front of messages. */
  readonly program: string
  /**
   * Takes what goes beyond QEMU's tools: images whose names say that they are compressed are read as what
   * they hold (`disk.raw.xz`), `info --contents`.
   */
  readonly extras?: boolean
  /** Writes to standard output. A reader that has gone away is no error. */
  stdout(text: string): void
  stderr(text: string): void
  /** Standard output and input as streams of image data. */
  readonly sink: ByteSink
  readonly source: ByteSource
  /** If standard output is a terminal. */
  readonly terminal: { readonly columns: number } | undefined
  /** A new block layer whose warnings go to `warn`, line by line. The tool closes it. */
  createLayer(warn: (line: string) => void): Promise<BlockLayer>
  /** Aborted when the user wants the program to end. */
  readonly signal: AbortSignal
  /** Calls `handler` whenever the user asks how far it is (SIGUSR1), until the result is called. */
  onProgressRequest(handler: () => void): () => void
  /** For programs that run as servers. */
  readonly server?: ServerProcess
  /** To be called before work that makes very many small objects: keeps the memory for new ones small. */
  spareMemory?(): void
  /** Waits. */
  pause?(milliseconds: number): Promise<void>
  /** Raises a signal in this process, by its number; its usual effect takes place. */
  raise?(signal: number): Promise<void>
  /** Lines that a user types on a terminal behind `prompt`, with history; absent if nobody can type. */
  readonly prompt?: ((prompt: string) => AsyncIterable<string>) | undefined
}

/** Ends a tool whose messages are out. */
export class ToolExit extends Error {
  readonly code: number

  constructor(code: number) {
    super(`exit ${code}`)
    this.name = 'ToolExit'
    this.code = code
  }
}
