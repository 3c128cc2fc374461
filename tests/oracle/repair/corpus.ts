import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'

/** A repeatable choice of numbers below a limit. */
export type Choose = (below: number) => number

/** mulberry32 */
export function chooser(seed: number): Choose {
  let state = seed >>> 0
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 4294967296) * below)
  }
}

type Command = readonly [tool: 'img' | 'io', ...args: string[]]

const writes = ['write -P 1 0 40k', 'write -P 2 100k 30k', 'write -z 60k 10k', 'write -P 3 200k 2k']
const ioArgs = (commands: readonly string[]) => commands.flatMap((command) => ['-c', command])

function plain(options: string, size = '256k'): Command[] {
  return [
    ['img', 'create', '-q', '-f', 'qcow2', '-o', options, 'image', size],
    ['io', '-f', 'qcow2', ...ioArgs(writes), 'image'],
  ]
}

function snapshots(options: string): Command[] {
  return [
    ...plain(options),
    ['img', 'snapshot', '-c', 'first', 'image'],
    ['io', '-f', 'qcow2', '-c', 'write -P 4 8k 40k', 'image'],
    ['img', 'snapshot', '-c', 'second', 'image'],
    ['io', '-f', 'qcow2', '-c', 'write -P 5 4k 4k', '-c', 'write -P 6 150k 20k', 'image'],
  ]
}

/** Sound images with every structure that can be damaged. */
const bases: Readonly<Record<string, readonly Command[]>> = {
  default: plain('cluster_size=64k', '1M'),
  small: plain('cluster_size=512'),
  old: plain('compat=0.10,cluster_size=1k'),
  snapshots: snapshots('cluster_size=4k'),
  'small snapshots': snapshots('cluster_size=512'),
  'old snapshots': snapshots('compat=0.10,cluster_size=1k'),
  'narrow refcounts': plain('refcount_bits=1,cluster_size=1k'),
  'wide refcounts': snapshots('refcount_bits=64,cluster_size=2k'),
  'byte refcounts': snapshots('refcount_bits=8,cluster_size=1k'),
  preallocated: [
    ['img', 'create', '-q', '-f', 'qcow2', '-o', 'preallocation=metadata,cluster_size=1k', 'image', '128k'],
    ['io', '-f', 'qcow2', '-c', 'write -P 1 0 40k', '-c', 'write -z 10k 20k', 'image'],
  ],
  lazy: plain('lazy_refcounts=on,cluster_size=1k'),
  bitmaps: [
    ...plain('cluster_size=4k'),
    ['img', 'bitmap', '--add', '-g', '512', 'image', 'first'],
    ['io', '-f', 'qcow2', '-c', 'write -P 4 8k 40k', 'image'],
    ['img', 'bitmap', '--add', '--disable', 'image', 'second'],
    ['io', '-f', 'qcow2', '-c', 'write -P 5 100k 40k', 'image'],
  ],
  'small bitmaps': [
    ...plain('cluster_size=512', '64k').slice(0, 1),
    ['img', 'bitmap', '--add', '-g', '512', 'image', 'a bitmap with a longer name'],
    ['io', '-f', 'qcow2', '-c', 'write -P 4 8k 40k', 'image'],
  ],
  backing: [
    ['img', 'create', '-q', '-f', 'raw', 'base.raw', '200k'],
    ['io', '-f', 'raw', '-c', 'write -P 7 10k 100k', 'base.raw'],
    [
      'img',
      'create',
      '-q',
      '-f',
      'qcow2',
      '-o',
      'cluster_size=1k,backing_file=base.raw,backing_fmt=raw',
      'image',
      '256k',
    ],
    ['io', '-f', 'qcow2', ...ioArgs(writes), 'image'],
  ],
  luks: [
    [
      'img',
      'create',
      '-q',
      '-f',
      'qcow2',
      '--object',
      'secret,id=s,data=geheim',
      '-o',
      'cluster_size=4k,encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10',
      'image',
      '256k',
    ],
    [
      'io',
      '--object',
      'secret,id=s,data=geheim',
      ...ioArgs(writes),
      '--image-opts',
      'driver=qcow2,file.filename=image,encrypt.key-secret=s',
    ],
  ],
  compressed: [
    ['img', 'create', '-q', '-f', 'raw', 'source', '256k'],
    ['io', '-f', 'raw', ...ioArgs(writes), 'source'],
    ['img', 'convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o', 'cluster_size=1k', 'source', 'image'],
    ['io', '-f', 'qcow2', '-c', 'write -P 9 3k 2k', 'image'],
  ],
}

function make(cwd: string, tool: string, args: readonly string[]): void {
  for (let attempt = 1; ; attempt++) {
    try {
      execFileSync(tool, args, { cwd, stdio: 'pipe' })
      return
    } catch (error) {
      // QEMU measures how long a key derivation takes, which fails on coarse clocks now and then.
      if (attempt === 20 || !String(error).includes('accurate CPU usage')) {
        throw error
      }
    }
  }
}

/** Makes the sound images in `folder`; returns their contents by name. */
export function makeBases(folder: string): Map<string, Uint8Array> {
  const made = new Map<string, Uint8Array>()
  for (const [name, commands] of Object.entries(bases)) {
    const cwd = path.join(folder, `base-${name}`)
    fs.mkdirSync(cwd, { recursive: true })
    for (const [tool, ...args] of commands) {
      make(cwd, `qemu-${tool}`, args)
    }
    made.set(name, Uint8Array.from(fs.readFileSync(path.join(cwd, 'image'))))
  }
  return made
}

/** A field of an image: where it stands and how many bytes it has. */
interface Field {
  readonly what: string
  readonly at: number
  readonly bytes: 1 | 2 | 4 | 8
}

/** Finds the metadata of a sound image, without any of the driver's code. */
class Layout {
  readonly fields = new Map<string, Field[]>()
  readonly clusterSize: number
  readonly length: number
  readonly #view: DataView

  constructor(image: Uint8Array) {
    this.#view = new DataView(image.buffer, image.byteOffset, image.byteLength)
    this.length = image.length
    this.clusterSize = 2 ** this.#view.getUint32(20)
    this.#header()
    this.#extensions()
    this.#refcounts()
    this.#tree('active', this.#u64(40), this.#view.getUint32(36))
    this.#snapshots()
  }

  #u64(at: number): number {
    return at + 8 <= this.length ? Number(this.#view.getBigUint64(at) & 0x00fffffffffffe00n) : 0
  }

  #add(what: string, at: number, bytes: Field['bytes']): void {
    const list = this.fields.get(what) ?? []
    list.push({ what, at, bytes })
    this.fields.set(what, list)
  }

  #header(): void {
    const version = this.#view.getUint32(4)
    for (const at of [36, 56, 60]) {
      this.#add('header count', at, 4)
    }
    for (const at of [40, 48, 64]) {
      this.#add('header offset', at, 8)
    }
    if (version === 3) {
      this.#add('header flags', 79, 1)
      this.#add('header flags', 87, 1)
      this.#add('refcount order', 96, 4)
    }
  }

  /** Header extensions, and what they point to. */
  #extensions(): void {
    const version = this.#view.getUint32(4)
    for (const [at, bytes] of [
      [8, 8],
      [16, 4],
      [20, 4],
      [24, 8],
      [32, 4],
    ] as const) {
      this.#add('header other', at, bytes)
    }
    if (version === 3) {
      this.#add('header other', 100, 4)
      this.#add('header other', 104, 1)
      this.#add('header flags', 95, 1)
    }
    let at = version === 3 ? this.#view.getUint32(100) : 72
    while (this.#view.getUint32(at) !== 0) {
      const type = this.#view.getUint32(at)
      const length = this.#view.getUint32(at + 4)
      this.#add('extension type', at, 4)
      this.#add('extension length', at + 4, 4)
      if (type === 0x23852875) {
        this.#bitmaps(at + 8)
      } else if (type === 0x0537be77) {
        this.#luks(at + 8)
      }
      at += 8 + Math.ceil(length / 8) * 8
    }
  }

  #bitmaps(extension: number): void {
    this.#add('bitmap extension', extension, 4)
    this.#add('bitmap extension', extension + 4, 4)
    this.#add('bitmap extension', extension + 8, 8)
    this.#add('bitmap extension', extension + 16, 8)
    let at = this.#u64(extension + 16)
    for (let i = 0; i < this.#view.getUint32(extension); i++) {
      const table = this.#u64(at)
      const entries = this.#view.getUint32(at + 8)
      const nameBytes = this.#view.getUint16(at + 18)
      const extraBytes = this.#view.getUint32(at + 20)
      for (const [offset, bytes] of [
        [0, 8],
        [8, 4],
        [12, 4],
        [16, 1],
        [17, 1],
        [18, 2],
        [20, 4],
      ] as const) {
        this.#add('bitmap directory', at + offset, bytes)
      }
      for (let j = 0; j < Math.min(entries, 32); j++) {
        this.#add('bitmap table entry', table + j * 8, 8)
      }
      at += 24 + Math.ceil((nameBytes + extraBytes) / 8) * 8
    }
  }

  #luks(extension: number): void {
    this.#add('LUKS extension', extension, 8)
    this.#add('LUKS extension', extension + 8, 8)
    const start = this.#u64(extension)
    const view = this.#view
    for (const [at, bytes] of [
      [0, 4],
      [4, 2],
      [6, 2],
      [8, 4],
      [40, 4],
      [72, 4],
      [104, 4],
      [108, 4],
      [112, 4],
      [132, 4],
    ] as const) {
      this.#add('LUKS header', start + at, bytes)
    }
    this.#add('LUKS iterations', start + 164, 4)
    for (let slot = start + 208; slot < start + 592; slot += 48) {
      this.#add('LUKS key slot', slot, 4)
      this.#add('LUKS key slot', slot + 40, 4)
      this.#add('LUKS key slot', slot + 44, 4)
      if (view.getUint32(slot) === 0x00ac71f3) {
        this.#add('LUKS iterations', slot + 4, 4)
        this.#add('LUKS key slot', slot + 8, 4)
        this.#add('LUKS key material', view.getUint32(slot + 40) * 512 + start, 4)
      }
    }
  }

  #refcounts(): void {
    const table = this.#u64(48)
    const entries = (this.#view.getUint32(56) * this.clusterSize) / 8
    for (let i = 0; i < entries; i++) {
      const block = this.#u64(table + i * 8)
      if (i < 4) {
        this.#add('refcount table entry', table + i * 8, 8)
      }
      for (let at = 0; block !== 0 && at < Math.min(256, this.clusterSize); at += 2) {
        this.#add('refcount', block + at, 2)
      }
    }
  }

  #tree(what: string, l1: number, entries: number): void {
    for (let i = 0; i < entries; i++) {
      const l2 = this.#u64(l1 + i * 8)
      if (l2 === 0 && i > 2) {
        continue
      }
      this.#add(`${what} L1 entry`, l1 + i * 8, 8)
      for (let j = 0; l2 !== 0 && j < this.clusterSize / 8; j++) {
        const at = l2 + j * 8
        if (at + 8 <= this.length && (this.#view.getBigUint64(at) !== 0n || j % 16 === 0)) {
          this.#add(`${what} L2 entry`, at, 8)
        }
      }
    }
  }

  #snapshots(): void {
    const count = this.#view.getUint32(60)
    let at = this.#u64(64)
    for (let i = 0; i < count; i++) {
      this.#add('snapshot L1 offset', at, 8)
      this.#add('snapshot L1 size', at + 8, 4)
      this.#add('snapshot name length', at + 12, 2)
      this.#add('snapshot name length', at + 14, 2)
      this.#add('snapshot extra length', at + 36, 4)
      this.#tree('snapshot', this.#u64(at), this.#view.getUint32(at + 8))
      const extra = this.#view.getUint32(at + 36)
      at += 40 + extra + this.#view.getUint16(at + 12) + this.#view.getUint16(at + 14)
      at = Math.ceil(at / 8) * 8
    }
  }
}

/** Other values for a field: nothing, everything, near misses, other places of the file, single bits. */
function damagedValue(choose: Choose, field: Field, old: bigint, layout: Layout): bigint {
  if (field.what === 'LUKS iterations') {
    // More of them take hours.
    return [0n, old + 1n, old - 1n, BigInt(choose(100))][choose(4)] ?? 0n
  }
  const bits = BigInt(field.bytes * 8)
  const wrap = (value: bigint) => BigInt.asUintN(Number(bits), value)
  const clusters = Math.ceil(layout.length / layout.clusterSize)
  const kinds: (() => bigint)[] = [
    () => 0n,
    // Header fields beyond 2^53 are not worth exact numbers in messages.
    () =>
      wrap(
        old ^
          (1n << BigInt(choose(field.what.startsWith('header') ? Math.min(52, Number(bits)) : Number(bits)))),
      ),
    () => wrap(old + 1n),
    () => wrap(old - 1n),
    () => wrap(old ^ (1n << (bits - 1n))),
  ]
  if (field.bytes === 8) {
    kinds.push(
      () => wrap(old + 512n),
      () => wrap(old + BigInt(layout.clusterSize)),
      () => BigInt(choose(clusters) * layout.clusterSize),
      () => (1n << 63n) | BigInt(choose(clusters) * layout.clusterSize),
      () => BigInt((clusters + 1 + choose(50)) * layout.clusterSize),
      () => old | 1n,
      () => (1n << BigInt(40 + choose(16))) * BigInt(1 + choose(3)),
      ...(field.what.startsWith('header') ? [] : [() => old | (1n << 62n)]),
    )
  } else if (field.bytes === 4) {
    kinds.push(
      () => BigInt(choose(100)),
      () => 0xffffffffn,
      () => BigInt(65537),
    )
  } else {
    kinds.push(() => BigInt(choose(4)))
  }
  const kind = kinds[choose(kinds.length)] ?? (() => 0n)
  return kind()
}

function readField(view: DataView, { at, bytes }: Field): bigint {
  switch (bytes) {
    case 8:
      return view.getBigUint64(at)
    case 4:
      return BigInt(view.getUint32(at))
    case 2:
      return BigInt(view.getUint16(at))
    default:
      return BigInt(view.getUint8(at))
  }
}

function writeField(view: DataView, { at, bytes }: Field, value: bigint): void {
  switch (bytes) {
    case 8:
      view.setBigUint64(at, value)
      break
    case 4:
      view.setUint32(at, Number(value))
      break
    case 2:
      view.setUint16(at, Number(value))
      break
    default:
      view.setUint8(at, Number(value))
  }
}

export interface Damaged {
  readonly title: string
  readonly image: Uint8Array
  /** Arguments of a command that name the image, called `image`. */
  readonly open: readonly string[]
}

const openPlain = ['-f', 'qcow2', 'image'] as const
const openEncrypted = [
  '--object',
  'secret,id=s,data=geheim',
  '--image-opts',
  'driver=qcow2,file.filename=image,encrypt.key-secret=s',
] as const

/** The damaged image number `seed`: one base with one field damaged, or two, or one and cut short. */
export function damage(made: Map<string, Uint8Array>, seed: number): Damaged {
  const choose = chooser(seed)
  const names = [...made.keys()]
  const name = names[seed % names.length] ?? ''
  const sound = made.get(name) ?? new Uint8Array(0)
  const layout = new Layout(sound)
  let image = sound.slice()
  const view = new DataView(image.buffer)
  const notes: string[] = []
  const kinds = [...layout.fields.values()]
  const count = 1 + (choose(3) === 0 ? 1 : 0)
  while (notes.length < count) {
    const fields = kinds[choose(kinds.length)] ?? []
    const field = fields[choose(fields.length)]
    if (field === undefined || field.at + field.bytes > image.length) {
      continue
    }
    const old = readField(view, field)
    const value = damagedValue(choose, field, old, layout)
    if (value !== old) {
      writeField(view, field, value)
      notes.push(`${field.what} at 0x${field.at.toString(16)}: ${old.toString(16)} to ${value.toString(16)}`)
    }
  }
  if (choose(12) === 0) {
    const length = image.length - choose(4 * layout.clusterSize)
    notes.push(`cut to ${length}`)
    image = image.slice(0, length)
  }
  const open = name === 'luks' ? openEncrypted : openPlain
  return { title: `${seed}: ${name}, ${notes.join('; ')}`, image, open }
}
