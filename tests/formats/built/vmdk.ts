import { deflateSync } from 'node:zlib'

/** A VMDK laid out byte by byte as the specification of virtual disk formats 5.0 says, without the driver's code. */
export interface BuiltVmdk {
  /** By name beside each other; the first one is to be opened. */
  readonly files: ReadonlyMap<string, Buffer>
  /** What it reads as. */
  readonly disk: Buffer
}

const sector = 512

/** Bytes of no pattern, the same for each seed. */
export function noise(bytes: number, seed: number): Buffer {
  let state = seed
  return Buffer.from(
    Uint8Array.from({ length: bytes }, () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0
      return state >>> 24
    }),
  )
}

/** QEMU takes an extent behind an empty line for two. `extents`: without the last newline. */
export function descriptorText(type: string, extents: string): string {
  return [
    '# Disk DescriptorFile',
    'version=1',
    'CID=fffffffe',
    'parentCID=ffffffff',
    `createType="${type}"`,
    '',
    '# Extent description',
    extents,
    '',
    '# The Disk Data Base',
    '#DDB',
    '',
    'ddb.virtualHWVersion = "4"',
    'ddb.geometry.cylinders = "12"',
    'ddb.geometry.heads = "16"',
    'ddb.geometry.sectors = "63"',
    'ddb.adapterType = "buslogic"',
    'ddb.uuid = "60 00 C2 93 7b a4 3e 7d-d9 08 1b 2c 3d 4e 5f 60"',
    '',
  ].join('\n')
}

interface HeaderFields {
  readonly version: number
  readonly flags: number
  /** Sectors, as all that follows. */
  readonly capacity: number
  readonly grain: number
  readonly redundant: number
  readonly directory: bigint
  readonly overhead: number
  readonly compression: number
}

function hostedHeader(fields: HeaderFields): Buffer {
  const bytes = Buffer.alloc(sector)
  bytes.write('KDMV', 0, 'latin1')
  bytes.writeUInt32LE(fields.version, 4)
  bytes.writeUInt32LE(fields.flags, 8)
  bytes.writeBigUInt64LE(BigInt(fields.capacity), 12)
  bytes.writeBigUInt64LE(BigInt(fields.grain), 20)
  bytes.writeBigUInt64LE(1n, 28)
  bytes.writeBigUInt64LE(20n, 36)
  bytes.writeUInt32LE(512, 44)
  bytes.writeBigUInt64LE(BigInt(fields.redundant), 48)
  bytes.writeBigUInt64LE(fields.directory, 56)
  bytes.writeBigUInt64LE(BigInt(fields.overhead), 64)
  bytes.write('\n \r\n', 73, 'latin1')
  bytes.writeUInt16LE(fields.compression, 77)
  return bytes
}

/** Grain tables of {@link buildSparse}: sectors where the first copy and the tables themselves stand. */
export const sparsePlaces = { copies: [22, 26], tables: [31, 35], firstGrain: 64 } as const

/**
 * A monolithic sparse disk of 4 KiB grains: the second of two tables has four grains, the last one half a grain.
 * Grains stand in the file in another order than on the disk.
 */
export function buildSparse(zeroedGrains: boolean): BuiltVmdk {
  const grain = 8
  const capacity = 515 * grain + 4
  const disk = Buffer.alloc(capacity * sector)
  const { copies, tables, firstGrain } = sparsePlaces
  const file = Buffer.alloc((firstGrain + 5 * grain) * sector)
  hostedHeader({
    version: zeroedGrains ? 2 : 1,
    flags: zeroedGrains ? 7 : 3,
    capacity,
    grain,
    redundant: 21,
    directory: 30n,
    overhead: firstGrain,
    compression: 0,
  }).copy(file)
  file.write(descriptorText('monolithicSparse', `RW ${capacity} SPARSE "sparse.vmdk"`), sector, 'latin1')
  for (const [directory, places] of [
    [21, copies],
    [30, tables],
  ] as const) {
    places.forEach((place, table) => {
      file.writeUInt32LE(place, directory * sector + table * 4)
    })
  }
  const setEntry = (index: number, value: number): void => {
    for (const places of [copies, tables]) {
      const table = places[index < 512 ? 0 : 1]
      file.writeUInt32LE(value, table * sector + (index % 512) * 4)
    }
  }
  for (const [index, number] of [
    [0, 4],
    [1, 0],
    [2, 1],
    [511, 3],
    [515, 2],
  ] as const) {
    const place = firstGrain + number * grain
    setEntry(index, place)
    // The file has a whole grain also where the disk ends within it.
    const data = noise(grain * sector, index + 1)
    data.copy(file, place * sector)
    data.copy(disk, index * grain * sector)
  }
  if (zeroedGrains) {
    setEntry(3, 1)
    setEntry(512, 1)
  }
  return { files: new Map([['sparse.vmdk', file]]), disk }
}

/** A descriptor with three flat extents, two of them within one file that holds other bytes around them. */
export function buildFlat(): BuiltVmdk {
  const first = noise(40 * sector, 31)
  const second = noise(24 * sector, 32)
  const file = Buffer.alloc(100 * sector, 0xee)
  // The second extent stands before the first one in their file.
  second.copy(file, 8 * sector)
  first.copy(file, 50 * sector)
  const third = noise(16 * sector, 33)
  const text = descriptorText(
    'twoGbMaxExtentFlat',
    [
      'RW 40 FLAT "parts-f001.vmdk" 50',
      'RW 24 FLAT "parts-f001.vmdk" 8',
      'RW 16 FLAT "parts-f002.vmdk" 0',
    ].join('\n'),
  )
  return {
    files: new Map([
      ['parts.vmdk', Buffer.from(text, 'latin1')],
      ['parts-f001.vmdk', file],
      ['parts-f002.vmdk', third],
    ]),
    disk: Buffer.concat([first, second, third]),
  }
}

/** A disk of ESX: a descriptor beside an extent of kind VMFS, which stands in its file from the start. */
export function buildVmfs(): BuiltVmdk {
  const disk = noise(48 * sector, 34)
  const text = descriptorText('vmfs', 'RW 48 VMFS "esx-flat.vmdk"')
  return {
    files: new Map([
      ['esx.vmdk', Buffer.from(text, 'latin1')],
      ['esx-flat.vmdk', Buffer.from(disk)],
    ]),
    disk,
  }
}

interface PackedGrain {
  readonly grain: number
  readonly data: Buffer
}

const streamGrain = 128

/** A marker with the grain's zlib stream behind it, in whole sectors. */
function packed({ grain, data }: PackedGrain): Buffer {
  const stream = deflateSync(data)
  const marker = Buffer.alloc(12)
  marker.writeBigUInt64LE(BigInt(grain * streamGrain), 0)
  marker.writeUInt32LE(stream.length, 8)
  const whole = Buffer.concat([marker, stream])
  return Buffer.concat([whole, Buffer.alloc((sector - (whole.length % sector)) % sector)])
}

const streamCapacity = 19 * streamGrain + 3

/** Grains of noise and of text; of the last one the disk has three sectors. */
function streamGrains(disk: Buffer): PackedGrain[] {
  return [0, 3, 4, 19].map((grain) => {
    const bytes = grain === 19 ? 3 * sector : streamGrain * sector
    const data = grain === 3 ? Buffer.alloc(bytes, 'text ') : noise(bytes, grain + 1)
    data.copy(disk, grain * streamGrain * sector)
    // VMware fills the last grain up.
    return { grain, data: Buffer.concat([data, Buffer.alloc(streamGrain * sector - bytes)]) }
  })
}

/** A stream-optimized disk with its directory, its table and copies of both in front, as QEMU makes it. */
export function buildStreamInFront(): BuiltVmdk {
  const disk = Buffer.alloc(streamCapacity * sector)
  const front = Buffer.alloc(128 * sector)
  hostedHeader({
    version: 3,
    flags: 0x30003,
    capacity: streamCapacity,
    grain: streamGrain,
    redundant: 21,
    directory: 26n,
    overhead: 128,
    compression: 1,
  }).copy(front)
  front.write(descriptorText('streamOptimized', `RW ${streamCapacity} SPARSE "front.vmdk"`), sector, 'latin1')
  front.writeUInt32LE(22, 21 * sector)
  front.writeUInt32LE(27, 26 * sector)
  const parts: Buffer[] = [front]
  let next = 128
  // The last grain first.
  for (const one of streamGrains(disk).reverse()) {
    for (const table of [22, 27]) {
      front.writeUInt32LE(next, table * sector + one.grain * 4)
    }
    const bytes = packed(one)
    parts.push(bytes)
    next += bytes.length / sector
  }
  return { files: new Map([['front.vmdk', Buffer.concat(parts)]]), disk }
}

/** A stream-optimized disk as VMware exports it: the footer alone knows where the directory is. */
export function buildStreamWithFooter(): BuiltVmdk {
  const disk = Buffer.alloc(streamCapacity * sector)
  const header = (directory: bigint): Buffer =>
    hostedHeader({
      version: 3,
      flags: 0x30001,
      capacity: streamCapacity,
      grain: streamGrain,
      redundant: 0,
      directory,
      overhead: 128,
      compression: 1,
    })
  const marker = (type: number, sectors: number): Buffer => {
    const bytes = Buffer.alloc(sector)
    bytes.writeBigUInt64LE(BigInt(sectors), 0)
    bytes.writeUInt32LE(type, 12)
    return bytes
  }
  const front = Buffer.alloc(128 * sector)
  header(0xffffffffffffffffn).copy(front)
  front.write(
    descriptorText('streamOptimized', `RW ${streamCapacity} SPARSE "stream.vmdk"`),
    sector,
    'latin1',
  )
  const parts: Buffer[] = [front]
  let next = 128
  const table = Buffer.alloc(4 * sector)
  for (const one of streamGrains(disk)) {
    table.writeUInt32LE(next, one.grain * 4)
    const bytes = packed(one)
    parts.push(bytes)
    next += bytes.length / sector
  }
  const directory = Buffer.alloc(sector)
  directory.writeUInt32LE(next + 1, 0)
  parts.push(marker(1, 4), table, marker(2, 1), directory)
  parts.push(marker(3, 1), header(BigInt(next + 6)), marker(0, 0))
  return { files: new Map([['stream.vmdk', Buffer.concat(parts)]]), disk }
}

/** A delta disk of ESX (COWD): grains of a sector, tables of 4096. The second of three tables is not there. */
export function buildCowd(): BuiltVmdk {
  const sectors = 9000
  const disk = Buffer.alloc(sectors * sector)
  const file = Buffer.alloc(80 * sector)
  file.write('COWD', 0, 'latin1')
  for (const [at, value] of [
    [4, 1],
    [8, 3],
    [12, sectors],
    [16, 1],
    [20, 4],
    [24, 3],
  ] as const) {
    file.writeUInt32LE(value, at)
  }
  // Directory at sector 4: the first table at 8, the third at 40.
  file.writeUInt32LE(8, 4 * sector)
  file.writeUInt32LE(40, 4 * sector + 8)
  for (const [grain, place] of [
    [0, 72],
    [1, 73],
    [4095, 74],
    [8192, 75],
    [8999, 76],
  ] as const) {
    const data = noise(sector, grain + 1)
    data.copy(disk, grain * sector)
    data.copy(file, place * sector)
    const table = grain < 4096 ? 8 : 40
    file.writeUInt32LE(place, table * sector + (grain % 4096) * 4)
  }
  return {
    files: new Map([
      [
        'cowd.vmdk',
        Buffer.from(descriptorText('vmfsSparse', `RW ${sectors} VMFSSPARSE "cowd-delta.vmdk"`), 'latin1'),
      ],
      ['cowd-delta.vmdk', file],
    ]),
    disk,
  }
}

/** A delta disk of ESXi (seSparse): grains of 4 KiB, some of them zeroed or unmapped. */
export function buildSeSparse(): BuiltVmdk {
  const grains = 5000
  const disk = Buffer.alloc(grains * 4096)
  const at = { volatile: 1, directory: 8, tables: 16, grains: 160 }
  const file = Buffer.alloc((at.grains + 8 * 8) * sector)
  const fields: readonly (readonly [offset: number, value: bigint])[] = [
    [0, 0xcafebaben],
    [8, 0x200000001n],
    [16, BigInt(grains * 8)],
    [24, 8n],
    [32, 64n],
    [80, BigInt(at.volatile)],
    [88, 1n],
    [128, BigInt(at.directory)],
    [136, 1n],
    [144, BigInt(at.tables)],
    [152, 128n],
    [192, BigInt(at.grains)],
    [200, 64n],
    [at.volatile * sector, 0xcafecafen],
    // Tables 1 and 0: the second table stands first.
    [at.directory * sector, 0x1000000000000001n],
    [at.directory * sector + 8, 0x1000000000000000n],
  ]
  for (const [offset, value] of fields) {
    file.writeBigUInt64LE(value, offset)
  }
  const setEntry = (grain: number, value: bigint): void => {
    const table = grain < 4096 ? 1 : 0
    file.writeBigUInt64LE(value, (at.tables + table * 64) * sector + (grain % 4096) * 8)
  }
  for (const [grain, number] of [
    [0, 3],
    [7, 0],
    [4095, 1],
    [4999, 2],
  ] as const) {
    const data = noise(4096, grain + 9)
    data.copy(disk, grain * 4096)
    data.copy(file, at.grains * sector + number * 4096)
    // The number's twelve lower bits stand above the others.
    setEntry(grain, 0x3000000000000000n | (BigInt(number) << 48n))
  }
  setEntry(8, 0x1000000000000000n)
  setEntry(9, 0x2000000000000000n)
  return {
    files: new Map([
      [
        'se.vmdk',
        Buffer.from(descriptorText('seSparse', `RW ${grains * 8} SESPARSE "se-sesparse.vmdk"`), 'latin1'),
      ],
      ['se-sesparse.vmdk', file],
    ]),
    disk,
  }
}
