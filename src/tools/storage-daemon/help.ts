import { packageVersion, qemuVersion } from '../version.js'

/** The lines of `--version`. Scripts read the release from the first line. */
export function versionText(program: string): string {
  return program === 'qemu-storage-daemon'
    ? `qemu-storage-daemon version ${qemuVersion} (blockgraph ${packageVersion})\n`
    : `${program} ${packageVersion} (qemu-storage-daemon ${qemuVersion})\n`
}

/** The text of `--help`. */
export function helpText(program: string): string {
  return `Usage: ${program} [OPTIONS]
Keeps disk images open, does work on them and offers them to other programs, as a
monitor or the command line tells it. Options take effect in the order in which they
are given.

  -h, --help                show this text
  -V, --version             show the version

What there is:
  --blockdev DRIVER,node-name=NAME[,OPTION=VALUE...]
                            open a node; the options are those of blockdev-add
  --object TYPE,id=ID[,PROPERTY=VALUE...]
                            define an object, such as a secret; --object help lists them
  --nbd-server addr.type=inet,addr.host=HOST,addr.port=PORT
               [,tls-creds=ID][,max-connections=N]
  --nbd-server addr.type=unix,addr.path=PATH[,tls-creds=ID][,max-connections=N]
                            start the NBD server
  --export nbd,id=ID,node-name=NAME[,name=EXPORT][,description=TEXT][,writable=on]
               [,writethrough=on][,bitmaps.0=BITMAP...][,allocation-depth=on]
                            offer a node to NBD clients

Who says what to do:
  --chardev socket,id=ID,path=PATH[,server=on[,wait=off]][,reconnect=SECONDS]
  --chardev socket,id=ID,host=HOST,port=PORT[,server=on[,wait=off]]
  --chardev stdio,id=ID     a character device; others are file, ringbuf and null
  --monitor CHARDEV[,pretty=on]
                            speak QMP on a character device

The process:
  --daemonize               go to the background when everything is set up
  --pidfile PATH            write the process's number to this file then
  --metrics ADDRESS:PORT    show figures for Prometheus to local HTTP clients
  -T, --trace SPEC          accepted, without effect

Values of options may also be given as one JSON object.
`
}

/** What \`--chardev help\` prints. */
export function chardevHelp(): string {
  const names = ['memory', 'file', 'socket', 'stdio', 'ringbuf', 'null']
  return `Available chardev backend types: \n${names.map((name) => `  ${name}\n`).join('')}`
}
