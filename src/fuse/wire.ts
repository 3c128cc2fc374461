// The kernel's FUSE protocol, version 7 (linux/fuse.h). Little-endian here: it is that of the machine, and
// the platforms that have FUSE here are.

/** Version spoken; a kernel that is older or newer speaks it, too. */
export const version = { major: 7, minor: 31 } as const

export const Opcode = {
  lookup: 1,
  forget: 2,
  getattr: 3,
  setattr: 4,
  open: 14,
  read: 15,
  write: 16,
  statfs: 17,
  release: 18,
  fsync: 20,
  flush: 25,
  init: 26,
  access: 34,
  interrupt: 36,
  destroy: 38,
  batchForget: 42,
  fallocate: 43,
  lseek: 46,
} as const

/** `atomicTruncate`: O_TRUNC comes with OPEN instead of as a change of the size. */
export const InitFlag = {
  asyncRead: 1,
  atomicTruncate: 1 << 3,
  bigWrites: 1 << 5,
  maxPages: 1 << 22,
} as const

/** What SETATTR changes. */
export const SetAttr = {
  mode: 1,
  user: 2,
  group: 4,
  size: 8,
  accessTime: 16,
  modifyTime: 32,
  handle: 64,
  accessNow: 128,
  modifyNow: 256,
  lockOwner: 512,
  changeTime: 1024,
} as const

/** Modes of fallocate(2). */
export const FallocateMode = { keepSize: 1, punchHole: 2, zeroRange: 16 } as const

export const Whence = { data: 3, hole: 4 } as const

export const inHeaderBytes = 40
export const outHeaderBytes = 16

/** Bytes of what follows the header in a request, at least. */
const bodyBytes: Readonly<Partial<Record<number, number>>> = {
  [Opcode.getattr]: 16,
  [Opcode.setattr]: 88,
  [Opcode.open]: 8,
  [Opcode.read]: 40,
  [Opcode.write]: 40,
  [Opcode.fsync]: 16,
  [Opcode.init]: 16,
  [Opcode.fallocate]: 32,
  [Opcode.lseek]: 24,
}

/** A request; offsets of fields count from the end of the header. */
export class FuseRequest {
  readonly opcode: number
  readonly unique: bigint
  readonly bytes: Uint8Array
  readonly #view: DataView

  private constructor(bytes: Uint8Array, view: DataView) {
    this.bytes = bytes
    this.#view = view
    this.opcode = view.getUint32(4, true)
    this.unique = view.getBigUint64(8, true)
  }

  /** Undefined: shorter than it says, or than a header. */
  static parse(bytes: Uint8Array): FuseRequest | undefined {
    if (bytes.length < inHeaderBytes) {
      return undefined
    }
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    return view.getUint32(0, true) === bytes.length ? new FuseRequest(bytes, view) : undefined
  }

  /** Whether everything is there that requests of this kind have. */
  get isComplete(): boolean {
    return this.bytes.length >= inHeaderBytes + (bodyBytes[this.opcode] ?? 0)
  }

  u32(offset: number): number {
    return this.#view.getUint32(inHeaderBytes + offset, true)
  }

  /** May be above what numbers hold exactly, so compare before use. */
  u64(offset: number): number {
    return this.u32(offset) + this.u32(offset + 4) * 2 ** 32
  }

  /** What follows the first `offset` bytes of the body. */
  rest(offset: number): Uint8Array {
    return this.bytes.subarray(inHeaderBytes + offset)
  }
}

/** The header of a reply, with room for `bytes` bytes of body that {@link FuseReply} writes. */
export class FuseReply {
  readonly bytes: Uint8Array
  readonly #view: DataView

  /**
   * @param bytes of the body
   * @param more bytes that follow it
   */
  constructor(unique: bigint, bytes: number, more = 0, error = 0) {
    this.bytes = new Uint8Array(outHeaderBytes + bytes)
    this.#view = new DataView(this.bytes.buffer)
    this.#view.setUint32(0, this.bytes.length + more, true)
    this.#view.setInt32(4, -error, true)
    this.#view.setBigUint64(8, unique, true)
  }

  u16(offset: number, value: number): this {
    this.#view.setUint16(outHeaderBytes + offset, value, true)
    return this
  }

  u32(offset: number, value: number): this {
    this.#view.setUint32(outHeaderBytes + offset, value, true)
    return this
  }

  u64(offset: number, value: number): this {
    return this.u32(offset, value % 2 ** 32).u32(offset + 4, Math.floor(value / 2 ** 32))
  }
}

/** Attributes of a file. */
export interface FuseAttributes {
  readonly size: number
  /** Bytes that it occupies. */
  readonly allocated: number
  readonly mode: number
  readonly user: number
  readonly group: number
  readonly blockSize: number
  /** Seconds since 1970. */
  readonly time: number
}

/** Seconds that attributes stay true for the kernel. */
const attributeSeconds = 1

/** The reply to GETATTR and SETATTR. */
export function attributesReply(unique: bigint, a: FuseAttributes): Uint8Array {
  const attributes = 16
  return new FuseReply(unique, 104)
    .u64(0, attributeSeconds)
    .u64(attributes, 1)
    .u64(attributes + 8, a.size)
    .u64(attributes + 16, Math.ceil(a.allocated / 512))
    .u64(attributes + 24, a.time)
    .u64(attributes + 32, a.time)
    .u64(attributes + 40, a.time)
    .u32(attributes + 60, a.mode)
    .u32(attributes + 64, 1)
    .u32(attributes + 68, a.user)
    .u32(attributes + 72, a.group)
    .u32(attributes + 80, a.blockSize).bytes
}
