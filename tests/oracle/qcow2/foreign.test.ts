import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { ours as ourIo, theirs as theirIo } from '../io/qemu-io.js'
import { Folder, firstDifference, io, ours, theirs, withoutDates } from './tools.js'

/**
 * Images that neither `qemu-img` 7.2 nor we make, but the format allows: headers of other lengths, extensions and
 * feature bits of later programs, other orders, snapshots with less or more about them. Both sides say the same of
 * each, read the same, and leave the same bytes when they change it.
 */
const folder = new Folder()
afterAll(() => folder.remove())

interface Extension {
  readonly magic: number
  readonly data: Uint8Array | string
}

interface Header {
  readonly length?: number
  /** Bytes of the header from 104 on. */
  readonly rest?: readonly number[]
  readonly extensions?: readonly Extension[]
  /** Written behind the extensions. An empty one has a place, too. */
  readonly backing?: string
  /** Bits of the feature words (offsets 72, 80, 88) that are set besides. */
  readonly features?: Readonly<Record<number, bigint>>
}

const backingFormat = 0xe2792aca
const featureTable = 0x6803f857
const dataFile = 0x44415441

/** Writes another header into the first cluster of a version 3 image. */
function withHeader(image: Uint8Array, header: Header): Uint8Array<ArrayBuffer> {
  const bytes = Uint8Array.from(image)
  const view = new DataView(bytes.buffer)
  const cluster = 2 ** view.getUint32(20)
  const length = header.length ?? 112
  bytes.fill(0, 104, cluster)
  view.setUint32(100, length)
  bytes.set(header.rest ?? [], 104)
  for (const [at, bits] of Object.entries(header.features ?? {})) {
    view.setBigUint64(Number(at), view.getBigUint64(Number(at)) | bits)
  }
  let at = length
  for (const { magic, data } of header.extensions ?? []) {
    const content = typeof data === 'string' ? Buffer.from(data) : data
    view.setUint32(at, magic)
    view.setUint32(at + 4, content.length)
    bytes.set(content, at + 8)
    at += 8 + Math.ceil(content.length / 8) * 8
  }
  at += 8
  if (header.backing !== undefined) {
    view.setBigUint64(8, BigInt(at))
    view.setUint32(16, header.backing.length)
    bytes.set(Buffer.from(header.backing), at)
  }
  return bytes
}

function names(...rows: readonly (readonly [type: number, bit: number, name: string])[]): Uint8Array {
  const table = Buffer.alloc(rows.length * 48)
  rows.forEach(([type, bit, name], i) => {
    table[i * 48] = type
    table[i * 48 + 1] = bit
    table.write(name, i * 48 + 2)
  })
  return table
}

const noise = Uint8Array.from({ length: 1100 }, (_, i) => (i * 37 + 11) & 255)
const unknown = (magic: number, bytes: number): Extension => ({ magic, data: noise.subarray(0, bytes) })

interface Made {
  /** Options of `create`. */
  readonly options?: string
  readonly header?: Header
  /** What else is changed by hand. */
  readonly edit?: (image: Uint8Array<ArrayBuffer>) => Uint8Array<ArrayBuffer>
  readonly snapshots?: boolean
  /** Changing it is refused, by both. */
  readonly readOnly?: boolean
  /** It is only looked at: it is broken. */
  readonly broken?: boolean
  /** QEMU turns the order of unknown extensions round whenever it writes the header; we leave it as it is. */
  readonly turned?: boolean
}

/** The snapshot table with as much extra data as wanted, at the end of the file: its old clusters leak. */
function withExtra(image: Uint8Array, extra: number): Uint8Array<ArrayBuffer> {
  const view = new DataView(image.buffer, image.byteOffset, image.byteLength)
  const cluster = 2 ** view.getUint32(20)
  const from = Number(view.getBigUint64(64))
  // The table stays in its cluster, which has room for more.
  const bytes = new Uint8Array(Math.max(image.length, from + cluster))
  bytes.set(image)
  const out = new DataView(bytes.buffer)
  bytes.fill(0, from, from + cluster)
  let at = from
  let to = from
  for (let i = 0; i < view.getUint32(60); i++) {
    const old = view.getUint32(at + 36)
    const text = view.getUint16(at + 12) + view.getUint16(at + 14)
    bytes.set(image.subarray(at, at + 40), to)
    out.setUint32(to + 36, extra)
    bytes.set(image.subarray(at + 40, at + 40 + Math.min(old, extra)), to + 40)
    if (extra > old) {
      bytes.set(noise.subarray(0, extra - old), to + 40 + old)
    }
    bytes.set(image.subarray(at + 40 + old, at + 40 + old + text), to + 40 + extra)
    at = Math.ceil((at + 40 + old + text) / 8) * 8
    to = Math.ceil((to + 40 + extra + text) / 8) * 8
  }
  return bytes
}

const table: Extension = { magic: featureTable, data: names([0, 0, 'dirty bit'], [1, 0, 'lazy refcounts']) }
const raw: Extension = { magic: backingFormat, data: 'raw' }

const images: Readonly<Record<string, Made>> = {
  'no extensions': { header: {} },
  'the shortest header': { header: { length: 104 } },
  'the shortest header, extensions right behind it': {
    header: { length: 104, extensions: [raw, unknown(0x11223344, 16)], backing: 'base' },
  },
  'a header with fields of later programs': {
    header: { length: 144, rest: [0, 0, 0, 0, 0, 0, 0, 0, ...noise.subarray(0, 32)], extensions: [table] },
  },
  'a header of an odd length': { header: { length: 117, rest: [0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5] } },
  'extensions of later programs': {
    header: {
      extensions: [unknown(1, 0), unknown(0xfffffffe, 13), table, unknown(0x12345678, 200), unknown(1, 8)],
    },
    turned: true,
  },
  'a backing file and extensions of later programs': {
    header: { extensions: [unknown(0x01020304, 5), raw, unknown(0x01020304, 7)], backing: 'base' },
    turned: true,
  },
  'a feature table with other names': {
    header: {
      extensions: [{ magic: featureTable, data: names([0, 0, 'dirt'], [1, 5, 'later'], [2, 9, 'cleared']) }],
    },
  },
  'a feature table that ends within a name': {
    header: {
      extensions: [{ magic: featureTable, data: names([0, 0, 'dirty bit'], [0, 1, 'x']).subarray(0, 60) }],
    },
  },
  'compatible and autoclear bits of later programs': {
    header: { features: { 80: (1n << 40n) | 2n, 88: (1n << 63n) | 4n }, extensions: [table] },
  },
  'an incompatible bit with a name': {
    header: {
      features: { 72: 1n << 40n },
      extensions: [{ magic: featureTable, data: names([0, 40, 'time travel']) }],
    },
    readOnly: true,
  },
  'an incompatible bit without a name': { header: { features: { 72: 1n << 63n } }, readOnly: true },
  'a backing file name of no length': { header: { extensions: [table], backing: '' } },
  'a backing file without a format': { header: { backing: 'base' } },
  'a backing format of no length': {
    header: { extensions: [{ magic: backingFormat, data: '' }], backing: 'base' },
  },
  'a backing format without a backing file': { header: { extensions: [raw] } },
  'two backing formats': {
    header: { extensions: [{ magic: backingFormat, data: 'qcow2' }, raw], backing: 'base' },
  },
  'a compression type of its default in a short header': {
    header: { length: 105, rest: [0] },
  },
  'zstd in a longer header': {
    options: 'compression_type=zstd',
    header: { length: 120, rest: [1, 0, 0, 0, 0, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9] },
  },
  'zstd in a header that is too short for it': {
    options: 'compression_type=zstd',
    header: { length: 104 },
    readOnly: true,
  },
  'a data file and extensions of later programs': {
    options: 'data_file=data',
    header: { extensions: [unknown(7, 3), { magic: dataFile, data: 'data' }, unknown(8, 9)] },
    turned: true,
  },
  'a raw data file, extended L2 entries': {
    options: 'data_file=data,data_file_raw=on,extended_l2=on',
    header: { extensions: [{ magic: dataFile, data: 'data' }] },
  },
  'the name of a data file without its bit': {
    header: { extensions: [{ magic: dataFile, data: 'data' }, table] },
  },
  'the bit of a raw data file without a data file': { header: { features: { 88: 2n } }, readOnly: true },
  'a data file without a name': {
    options: 'data_file=data',
    header: { extensions: [table] },
    readOnly: true,
  },
  ...Object.fromEntries(
    [0, 8, 12, 16, 20, 24, 32, 1000, 1024].map((extra) => [
      `snapshots with ${extra} bytes of extra data`,
      { snapshots: true, edit: (image: Uint8Array) => withExtra(image, extra) },
    ]),
  ),
  'snapshots with too much extra data': {
    snapshots: true,
    edit: (image) => withExtra(image, 1025),
  },
  'snapshots of version 2 with no extra data': {
    options: 'compat=0.10',
    snapshots: true,
    edit: (image) => withExtra(image, 0),
  },
  'a size that is no whole sectors': {
    edit: (image) => {
      new DataView(image.buffer).setBigUint64(24, BigInt((1 << 20) - 300))
      return image
    },
  },
  'clusters far behind the end of the file': {
    edit: (image) => {
      const view = new DataView(image.buffer)
      const l2 = Number(view.getBigUint64(Number(view.getBigUint64(40))) & 0x00fffffffffffe00n)
      view.setBigUint64(l2 + 8 * 8, (1n << 63n) | (1n << 50n))
      return image
    },
    broken: true,
  },
}

function make(cwd: string, { options, header, edit, snapshots }: Made): Uint8Array<ArrayBuffer> {
  theirs(cwd, 'create', '-q', '-f', 'raw', 'base', '1M')
  const more = options === undefined ? [] : ['-o', options]
  expect(theirs(cwd, 'create', '-q', '-f', 'qcow2', ...more, 'image', '1M').status).toBe(0)
  io(cwd, 'image', 'write -P 1 0 100k', 'write -P 2 300k 64k', 'write -z 600k 64k')
  if (snapshots === true) {
    theirs(cwd, 'snapshot', '-c', 'first', 'image')
    io(cwd, 'image', 'write -P 3 64k 64k')
    theirs(cwd, 'snapshot', '-c', 'second one', 'image')
  }
  let image = Uint8Array.from(fs.readFileSync(path.join(cwd, 'image')))
  image = header === undefined ? image : withHeader(image, header)
  image = edit === undefined ? image : edit(image)
  fs.writeFileSync(path.join(cwd, 'base'), Buffer.alloc(1 << 20, 0xbb))
  return image
}

/** The image with the unknown extensions of its header in an order of their own. */
function inOrder(image: Uint8Array): Uint8Array {
  const bytes = Uint8Array.from(image)
  const view = new DataView(bytes.buffer)
  const start = view.getUint32(100)
  const known: Buffer[] = []
  const others: Buffer[] = []
  let at = start
  while (view.getUint32(at) !== 0) {
    const end = at + 8 + Math.ceil(view.getUint32(at + 4) / 8) * 8
    const isKnown = [backingFormat, featureTable, dataFile].includes(view.getUint32(at))
    const list = isKnown ? known : others
    list.push(Buffer.from(bytes.slice(at, end)))
    at = end
  }
  bytes.set(Buffer.concat([...known, ...others.sort(Buffer.compare)]), start)
  return bytes
}

const digest = (file: string) =>
  fs.existsSync(file) ? createHash('sha1').update(fs.readFileSync(file)).digest('hex') : undefined

/** What a side says of the image in `cwd`. */
async function judge(side: 'qemu' | 'ours', cwd: string): Promise<unknown> {
  const say = (...args: string[]) => (side === 'qemu' ? theirs(cwd, ...args) : ours(cwd, ...args))
  fs.rmSync(path.join(cwd, 'raw'), { force: true })
  return {
    info: await say('info', '-f', 'qcow2', 'image'),
    json: await say('info', '-f', 'qcow2', '--output=json', 'image'),
    check: await say('check', '-f', 'qcow2', 'image'),
    map: await say('map', '-f', 'qcow2', '--output=json', 'image'),
    snapshots: await say('snapshot', '-l', 'image'),
    convert: await say('convert', '-f', 'qcow2', '-O', 'raw', 'image', 'raw'),
    contents: digest(path.join(cwd, 'raw')),
  }
}

/** Changes that write the header, the snapshot table, or data. */
const changes: readonly (readonly string[])[] = [
  ['io', 'write -P 9 200k 10k'],
  ['amend', '-f', 'qcow2', '-o', 'lazy_refcounts=on', 'image'],
  ['snapshot', '-c', 'new', 'image'],
  ['rebase', '-u', '-f', 'qcow2', '-F', 'raw', '-b', 'base', 'image'],
  ['resize', '-q', '-f', 'qcow2', 'image', '2M'],
  ['check', '-r', 'all', '-f', 'qcow2', 'image'],
  ['rebase', '-u', '-f', 'qcow2', '-b', '', 'image'],
]

test.each(Object.entries(images))('%s', async (name, made) => {
  const id = name.replaceAll(/\W/g, '-')
  const sides = { qemu: folder.sub(`${id}-qemu`), ours: folder.sub(`${id}-ours`) }
  const image = make(sides.qemu, made)
  for (const file of ['base', 'data']) {
    if (fs.existsSync(path.join(sides.qemu, file))) {
      fs.copyFileSync(path.join(sides.qemu, file), path.join(sides.ours, file))
    }
  }
  for (const cwd of Object.values(sides)) {
    fs.writeFileSync(path.join(cwd, 'image'), image)
  }
  expect(await judge('ours', sides.qemu)).toEqual(await judge('qemu', sides.qemu))
  if (made.broken === true) {
    return
  }
  let changed = 0
  for (const [kind = '', ...args] of changes) {
    if (kind === 'io') {
      const words = ['-f', 'qcow2', '-c', args[0] ?? '', 'image']
      const said = await theirIo(words, sides.qemu)
      const { code, stderr } = await ourIo(words, sides.ours)
      expect({ code, stderr }, args[0]).toEqual({ code: said.code, stderr: said.stderr })
      changed += said.code === 0 ? 1 : 0
    } else {
      const said = theirs(sides.qemu, kind, ...args)
      expect(await ours(sides.ours, kind, ...args), `${kind} ${args.join(' ')}`).toEqual(said)
      changed += said.status === 0 ? 1 : 0
    }
    const [a, b] = [sides.qemu, sides.ours].map((cwd) => fs.readFileSync(path.join(cwd, 'image')))
    if (a !== undefined && b !== undefined) {
      const plain = (bytes: Uint8Array) => withoutDates(made.turned === true ? inOrder(bytes) : bytes)
      expect(firstDifference(plain(a), plain(b)), `${kind} ${args.join(' ')}`).toBeUndefined()
    }
    expect(digest(path.join(sides.ours, 'data'))).toBe(digest(path.join(sides.qemu, 'data')))
  }
  if (made.turned === true) {
    const left = fs.readFileSync(path.join(sides.ours, 'image'))
    const places = (made.header?.extensions ?? [])
      .filter(({ magic }) => ![backingFormat, featureTable, dataFile].includes(magic))
      .map(({ magic, data }) => {
        const head = Buffer.alloc(8)
        head.writeUInt32BE(magic)
        head.writeUInt32BE(data.length, 4)
        return left.indexOf(Buffer.concat([head, Buffer.from(data)]))
      })
    expect(places).not.toContain(-1)
    expect(places).toEqual([...places].sort((x, y) => x - y))
  }
  expect(changed === 0 ? 'read only' : 'changed').toBe(made.readOnly === true ? 'read only' : 'changed')
  expect(await judge('ours', sides.ours)).toEqual(await judge('qemu', sides.ours))
})
