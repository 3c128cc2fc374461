import { packageVersion, qemuVersion } from '../version.js'

/** The lines of `--version`. Scripts read the release from the first line. */
export function versionText(program: string): string {
  return program === 'qemu-nbd'
    ? `qemu-nbd ${qemuVersion} (blockgraph ${packageVersion})\n`
    : `${program} ${packageVersion} (qemu-nbd ${qemuVersion})\n`
}

/** The text of `--help`. */
export function helpText(program: string): string {
  return `Usage: ${program} [OPTIONS] FILE
  or:  ${program} -L [OPTIONS]
Offers a disk image to NBD clients

  -h, --help                show this text
  -V, --version             show the version

Where clients find it:
  -k, --socket=PATH         listen on a Unix socket (an absolute path)
  -p, --port=PORT           listen on this TCP port (default 10809)
  -b, --bind=HOST           listen on this address (default 0.0.0.0)
  -x, --export-name=NAME    name of the export (default: the empty name)
  -D, --description=TEXT    text about the export
  -e, --shared=NUM          clients at the same time; 0: any number (default 1)
  -t, --persistent          go on when the last client has left
      --tls-creds=ID        demand TLS with these credentials, see --object
      --tls-authz=ID        let in whose certificates the object ID allows
  -L, --list                show the exports of another server
      --tls-hostname=NAME   with -L, the name in the server's certificate
  -v, --verbose             accepted, without effect

What they see:
  -r, --read-only           no writes
  -o, --offset=OFFSET       start the export here, bytes
  -A, --allocation-depth    offer qemu:allocation-depth
  -B, --bitmap=NAME         offer this dirty bitmap; may be given several times
  -s, --snapshot            write to a temporary overlay
  -l, --load-snapshot=SNAP  show an internal snapshot, read-only: ID_OR_NAME, or
                            snapshot.id=ID,snapshot.name=NAME

How the image is opened:
  -f, --format=FORMAT       format of the image
      --image-opts          FILE is a list of options
      --object OBJECTDEF    define an object, such as a secret
  -n, --nocache             same as --cache=none
      --cache=MODE          none, writeback, writethrough, directsync or unsafe
      --aio=MODE            native, io_uring or threads
      --discard=MODE        ignore or unmap
      --detect-zeroes=MODE  off, on or unmap

The process:
      --fork                run in the background once clients can connect
      --pid-file=PATH       write the process's number to this file
  -c, --connect=DEV         attach to a device of the kernel, such as /dev/nbd0
  -d, --disconnect          detach the device FILE
  -T, --trace SPEC          accepted, without effect
      --selinux-label=LABEL not supported
`
}
