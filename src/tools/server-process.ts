/** What a tool that runs as a server needs of its process. */
export interface ServerProcess {
  /** Listening sockets that whoever started the program handed over (`LISTEN_FDS`), from descriptor 3 on; 0: none. */
  readonly inheritedSockets: number
  /** This process was started by {@link fork}. */
  readonly isForked: boolean
  /**
   * Starts the program again, with the same arguments, in the background, and waits until it calls
   * {@link ready} or ends. Returns the exit code for this process: 0 if nothing went wrong and no
   * message was printed.
   */
  fork(): Promise<number>
  /** The server works; `printed`: there were messages. */
  ready(printed: boolean): void
  /** Writes the number of this process into a file. @throws BlockError `Could not create '%s': %s` */
  writePidFile(path: string): void
  /** A signal to end is the usual way to end: the exit code is what the tool returns. */
  endsBySignal(): void
}
