import zlib, { deflateSync } from 'node:zlib'

/** There from Node 20.15 on, but not in the types used here. */
const { crc32 } = zlib as unknown as { crc32(data: Uint8Array, value?: number): number }

function putChecksum(into: Buffer, at: number, data: Uint8Array): void {
  into.writeUInt32BE(2, at)
  into.writeUInt32BE(32, at + 4)
  into.writeUInt32BE(crc32(data), at + 8)
}

export const chunkTypes = {
  zero: 0,
  raw: 1,
  ignore: 2,
  adc: 0x80000004,
  zlib: 0x80000005,
  bzip2: 0x80000006,
  lzfse: 0x80000007,
  lzma: 0x80000008,
} as const

export type ChunkName = keyof typeof chunkTypes

export interface DmgSpec {
  /** Kinds that chunks with contents take turns in; zeroes become `zero` or `ignore`. Default: zlib. */
  readonly kinds?: readonly ChunkName[]
  readonly chunkBytes?: number
  readonly layout?: 'plist' | 'resources'
  /** Block lists the chunks are dealt out to, in the order they are written. Default 1. */
  readonly lists?: number
  /** Bytes in front of the data fork. */
  readonly dataForkOffset?: number
  /** Bytes that the file has besides whole sectors. */
  readonly odd?: number
  /** Whether the lists come last to first. */
  readonly reversed?: boolean
  /** Compressors by kind; zlib is built in. */
  readonly compress?: Partial<Record<ChunkName, (data: Uint8Array) => Uint8Array>>
}

interface Chunk {
  readonly type: number
  readonly sector: number
  readonly sectors: number
  readonly offset: number
  readonly length: number
}

function mish(chunks: readonly Chunk[], dataOffset: number, disk: Uint8Array): Buffer {
  const first = chunks[0]?.sector ?? 0
  const sectors = chunks.reduce((sum, chunk) => sum + chunk.sectors, 0)
  const head = Buffer.alloc(204)
  head.write('mish', 0)
  head.writeUInt32BE(1, 4)
  head.writeBigUInt64BE(BigInt(first), 8)
  head.writeBigUInt64BE(BigInt(sectors), 16)
  head.writeBigUInt64BE(BigInt(dataOffset), 24)
  putChecksum(head, 64, disk.subarray(first * 512, (first + sectors) * 512))
  head.writeUInt32BE(chunks.length + 1, 200)
  const entries = chunks.map((chunk) => {
    const entry = Buffer.alloc(40)
    entry.writeUInt32BE(chunk.type, 0)
    entry.writeBigUInt64BE(BigInt(chunk.sector - first), 8)
    entry.writeBigUInt64BE(BigInt(chunk.sectors), 16)
    entry.writeBigUInt64BE(BigInt(chunk.offset - dataOffset), 24)
    entry.writeBigUInt64BE(BigInt(chunk.length), 32)
    return entry
  })
  const end = Buffer.alloc(40)
  end.writeUInt32BE(0xffffffff, 0)
  end.writeBigUInt64BE(BigInt(sectors), 8)
  const last = chunks.at(-1)
  end.writeBigUInt64BE(BigInt(last === undefined ? 0 : last.offset + last.length - dataOffset), 24)
  return Buffer.concat([head, ...entries, end])
}

function plist(lists: readonly Buffer[]): Buffer {
  const items = lists.map((list, i) => {
    const lines = list.toString('base64').replace(/(.{52})/g, '$1\n\t\t\t\t')
    return `\t\t\t<dict>\n\t\t\t\t<key>Attributes</key>\n\t\t\t\t<string>0x0050</string>\n\t\t\t\t<key>CFName</key>\n\t\t\t\t<string>part ${i}</string>\n\t\t\t\t<key>Data</key>
\t\t\t\t<data>\n\t\t\t\t${lines}\n\t\t\t\t</data>\n\t\t\t\t<key>ID</key>\n\t\t\t\t<string>${i}</string>\n\t\t\t\t<key>Name</key>\n\t\t\t\t<string>part ${i}</string>\n\t\t\t</dict>\n`
  })
  return Buffer.from(`<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple Computer//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">\n<dict>\n\t<key>resource-fork</key>\n\t<dict>\n\t\t<key>blkx</key>\n\t\t<array>
${items.join('')}\t\t</array>\n\t\t<key>plst</key>\n\t\t<array>\n\t\t\t<dict>\n\t\t\t\t<key>Data</key>
\t\t\t\t<data>\n\t\t\t\tAAAAAAAA\n\t\t\t\t</data>\n\t\t\t</dict>\n\t\t</array>\n\t</dict>\n</dict>\n</plist>\n`)
}

function resources(lists: readonly Buffer[]): Buffer {
  const header = Buffer.alloc(256)
  const data = lists.map((list) => {
    const length = Buffer.alloc(4)
    length.writeUInt32BE(list.length)
    return Buffer.concat([length, list])
  })
  const bytes = data.reduce((sum, one) => sum + one.length, 0)
  header.writeUInt32BE(256, 0)
  header.writeUInt32BE(256 + bytes, 4)
  header.writeUInt32BE(bytes, 8)
  return Buffer.concat([header, ...data, Buffer.alloc(50)])
}

/** The image of a disk of whole sectors. */
export function buildDmg(disk: Uint8Array, spec: DmgSpec = {}): Uint8Array {
  const {
    kinds = ['zlib'],
    chunkBytes = 16384,
    layout = 'plist',
    lists = 1,
    dataForkOffset = 0,
    odd = 0,
  } = spec
  const parts: Uint8Array[] = [Buffer.alloc(dataForkOffset, 0x55)]
  let offset = 0
  const chunks: Chunk[] = []
  for (let at = 0, turn = 0; at < disk.length; at += chunkBytes) {
    const data = disk.subarray(at, at + chunkBytes)
    const place = { sector: at / 512, sectors: data.length / 512 }
    if (data.every((byte) => byte === 0)) {
      const type = chunks.length % 2 === 0 ? chunkTypes.zero : chunkTypes.ignore
      chunks.push({ type, ...place, offset, length: 0 })
      continue
    }
    const kind = kinds[turn++ % kinds.length] ?? 'raw'
    const stored = kind === 'raw' ? data : kind === 'zlib' ? deflateSync(data) : spec.compress?.[kind]?.(data)
    if (stored === undefined) {
      throw new Error(`no compressor for ${kind}`)
    }
    chunks.push({ type: chunkTypes[kind], ...place, offset, length: stored.length })
    parts.push(stored)
    offset += stored.length
  }
  const perList = Math.ceil(chunks.length / lists)
  const blockLists = Array.from({ length: lists }, (_, i) => {
    const own = chunks.slice(i * perList, (i + 1) * perList)
    return mish(own, i === 0 ? 0 : (own[0]?.offset ?? 0), disk)
  })
  if (spec.reversed === true) {
    blockLists.reverse()
  }
  const index = layout === 'plist' ? plist(blockLists) : resources(blockLists)
  const indexAt = dataForkOffset + offset
  const koly = Buffer.alloc(512)
  koly.write('koly', 0)
  koly.writeUInt32BE(4, 4)
  koly.writeUInt32BE(512, 8)
  koly.writeUInt32BE(1, 12)
  koly.writeBigUInt64BE(BigInt(dataForkOffset), 0x18)
  koly.writeBigUInt64BE(BigInt(offset), 0x20)
  const at = layout === 'plist' ? 0xd8 : 0x28
  koly.writeBigUInt64BE(BigInt(indexAt), at)
  koly.writeBigUInt64BE(BigInt(index.length), at + 8)
  putChecksum(koly, 0x50, Buffer.concat(parts.slice(1)))
  putChecksum(koly, 0x160, Buffer.concat(blockLists.map((list) => list.subarray(72, 76))))
  koly.writeUInt32BE(1, 0x1e8)
  koly.writeBigUInt64BE(BigInt(disk.length / 512), 0x1ec)
  const padding = (1024 - ((indexAt + index.length) % 512) + odd) % 512
  return Buffer.concat([...parts, index, Buffer.alloc(padding), koly])
}
