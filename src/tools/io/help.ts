import { packageVersion, qemuVersion } from '../version.js'

/** The lines of `--version`. Scripts read the release from the first line. */
export function versionText(program: string): string {
  return program === 'qemu-io'
    ? `qemu-io version ${qemuVersion} (blockgraph ${packageVersion})\n`
    : `${program} version ${packageVersion} (qemu-io ${qemuVersion})\n`
}

/** The text of `--help`. */
export function helpText(program: string): string {
  return `Usage: ${program} [OPTIONS]... [-c STRING]... [file]
Reads and writes disk images by commands

  -c, --cmd STRING     run a command; may be given several times
  -f, --format FMT     format of the image
  --image-opts         the file is a list of options
  --object OBJECTDEF   define an object, such as a secret
  -r, --read-only      open read-only
  -s, --snapshot       write to a temporary overlay
  -n, --nocache        same as -t none
  -t, --cache=MODE     cache mode
  -d, --discard=MODE   discard mode
  -i, --aio=MODE       threads, native or io_uring
  -k, --native-aio     same as -i native
  -C, --copy-on-read   enable copy-on-read
  -m, --misalign       accepted, without effect
  -U, --force-share    share the image with whoever uses it
  -T, --trace SPEC     accepted, without effect
  -h, --help           show this text
  -V, --version        show the version

Without -c, commands are read from standard input. '${program} -c help' lists them.
`
}

const common = {
  C: 'print comma-separated values instead of text',
  P: 'pattern byte to compare with',
  q: 'print nothing about the request',
  v: 'print what was read as a hex dump',
  fill: 'pattern byte to write',
  f: 'the data is durable when the command is done',
  u: 'with -z, the range may be deallocated',
  z: 'write zeroes',
  r: 'use registered buffers (accepted, without effect)',
  i: 'make no request, only count an invalid one',
}

const options: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  read: {
    b: 'read from the VM state area',
    C: common.C,
    l: 'with -P, bytes to compare',
    P: common.P,
    q: common.q,
    r: common.r,
    s: 'with -P, where to start comparing',
    v: common.v,
  },
  readv: { C: common.C, P: common.P, q: common.q, r: common.r, v: common.v },
  write: {
    b: 'write to the VM state area',
    c: 'write compressed',
    C: common.C,
    f: common.f,
    n: 'with -z, fail if zeroes would have to be written as data',
    P: common.fill,
    q: common.q,
    r: common.r,
    s: 'file to fill the buffer from',
    u: common.u,
    z: common.z,
  },
  writev: { C: common.C, f: common.f, P: common.fill, q: common.q, r: common.r },
  discard: { C: common.C, q: common.q },
  aio_read: { C: common.C, i: common.i, P: common.P, q: common.q, r: common.r, v: common.v },
  aio_write: {
    C: common.C,
    f: common.f,
    i: common.i,
    P: common.fill,
    q: common.q,
    r: common.r,
    u: common.u,
    z: common.z,
  },
  aio_discard: { C: common.C, q: common.q },
  zone_append: { p: 'print where the data went, in sectors' },
  open: {
    r: 'open read-only',
    s: 'write to a temporary overlay',
    C: 'enable copy-on-read',
    n: 'same as -t none',
    U: 'share the image with whoever uses it',
    k: 'same as -i native',
    i: 'threads, native or io_uring',
    t: 'cache mode',
    d: 'discard mode',
    o: 'options of the image',
  },
  reopen: { r: 'make read-only', w: 'make writable', c: 'cache mode', o: 'options to change' },
}

/** The lines of `help COMMAND` below the first. */
export function details(name: string): string {
  const letters = options[name]
  if (letters === undefined) {
    return ''
  }
  const lines = Object.entries(letters).map(([letter, text]) => ` -${letter}, -- ${text}\n`)
  return `\n${lines.join('')}\n`
}
