import { random, type Workshop } from './qemu.js'

/** What an image of the matrix is like. */
export interface Case {
  readonly format: 'raw' | 'qcow2'
  readonly compat: '0.10' | '1.1'
  /** Bytes. */
  readonly cluster: number
  readonly refcountBits: number
  readonly compression: 'none' | 'zlib' | 'zstd'
  readonly backing: 'none' | 'raw' | 'qcow2' | 'chain'
  readonly seed: number
}

export function nameOf(c: Case): string {
  return c.format === 'raw'
    ? `raw seed ${c.seed}`
    : `qcow2 ${c.compat} cluster ${c.cluster} refcount ${c.refcountBits} compression ${c.compression} backing ${c.backing}`
}

/** Every combination that QEMU accepts. */
export function allCases(): Case[] {
  const cases: Case[] = []
  let seed = 1
  for (const cluster of [512, 4096, 65536, 2097152]) {
    for (const refcountBits of [1, 2, 4, 8, 16, 32, 64]) {
      for (const compression of ['none', 'zlib', 'zstd'] as const) {
        for (const backing of ['none', 'raw', 'qcow2', 'chain'] as const) {
          for (const compat of ['0.10', '1.1'] as const) {
            seed++
            if (compat === '0.10' && (refcountBits !== 16 || compression === 'zstd')) {
              continue
            }
            cases.push({ format: 'qcow2', compat, cluster, refcountBits, compression, backing, seed })
          }
        }
      }
    }
  }
  for (let extra = 0; extra < 8; extra++) {
    cases.push(rawCase(++seed))
  }
  return cases
}

function rawCase(seed: number): Case {
  return {
    format: 'raw',
    compat: '1.1',
    cluster: 512,
    refcountBits: 16,
    compression: 'none',
    backing: 'none',
    seed,
  }
}

/** A dozen that hold every value of every dimension. */
export function sampleCases(): Case[] {
  const pick = (
    cluster: number,
    refcountBits: number,
    compression: Case['compression'],
    backing: Case['backing'],
    compat: Case['compat'] = '1.1',
  ): Case => ({
    format: 'qcow2',
    compat,
    cluster,
    refcountBits,
    compression,
    backing,
    seed: cluster + refcountBits,
  })
  return [
    rawCase(7),
    pick(65536, 16, 'none', 'none'),
    pick(65536, 16, 'zlib', 'chain'),
    pick(65536, 16, 'zlib', 'qcow2', '0.10'),
    pick(512, 16, 'none', 'raw', '0.10'),
    pick(512, 1, 'zlib', 'none'),
    pick(512, 64, 'zstd', 'chain'),
    pick(4096, 2, 'none', 'qcow2'),
    pick(4096, 32, 'zstd', 'raw'),
    pick(4096, 4, 'zlib', 'none'),
    pick(2097152, 8, 'zlib', 'raw'),
    pick(2097152, 16, 'none', 'chain'),
    pick(2097152, 64, 'zstd', 'none'),
  ]
}

/** Bytes of the images; not a whole number of large clusters. */
export function sizeOf(c: Case): number {
  return (c.cluster >= 2097152 ? 9 : c.cluster <= 512 ? 1 : 4) * 1048576 + 3 * 512
}

export type Operation =
  | { readonly kind: 'write'; readonly offset: number; readonly bytes: number; readonly pattern: number }
  | { readonly kind: 'zero'; readonly offset: number; readonly bytes: number; readonly unmap: boolean }
  | { readonly kind: 'discard'; readonly offset: number; readonly bytes: number }
  | { readonly kind: 'compress'; readonly offset: number; readonly bytes: number; readonly pattern: number }

/** A random history of an image. Compressed clusters come first: QEMU writes them only where nothing is. */
export function operationsOf(c: Case, salt: number, count = 24): Operation[] {
  const below = random(c.seed * 131 + salt)
  const size = sizeOf(c)
  const operations: Operation[] = []
  if (c.compression !== 'none') {
    const clusters = Math.floor(size / c.cluster)
    const chosen = new Set(Array.from({ length: Math.min(clusters, 12) }, () => below(clusters)))
    for (const cluster of chosen) {
      const pattern = 1 + below(255)
      operations.push({ kind: 'compress', offset: c.cluster * cluster, bytes: c.cluster, pattern })
    }
  }
  for (let i = 0; i < count; i++) {
    const unit = [512, 512, 4096, Math.max(c.cluster, 512)][below(4)] as number
    const most = Math.max(1, Math.min(Math.floor(size / unit / 2), Math.ceil(300000 / unit)))
    const bytes = unit * (1 + below(most))
    const offset = unit * below(Math.floor((size - bytes) / unit) + 1)
    const pattern = 1 + below(255)
    const which = below(8)
    if (which < 5) {
      operations.push({ kind: 'write', offset, bytes, pattern })
    } else if (which < 7) {
      operations.push({ kind: 'zero', offset, bytes, unmap: below(2) === 1 })
    } else {
      operations.push({ kind: 'discard', offset, bytes })
    }
  }
  return operations
}

function commandOf(operation: Operation): string {
  const { offset, bytes } = operation
  switch (operation.kind) {
    case 'write':
      return `write -P ${operation.pattern} ${offset} ${bytes}`
    case 'zero':
      return `write -z ${operation.unmap ? '-u ' : ''}${offset} ${bytes}`
    case 'discard':
      return `discard ${offset} ${bytes}`
    case 'compress':
      return `write -c -P ${operation.pattern} ${offset} ${bytes}`
  }
}

/** Create options of the case. */
export function createOptionsOf(c: Case): string {
  const type = c.compression === 'zstd' ? ',compression_type=zstd' : ''
  return `compat=${c.compat},cluster_size=${c.cluster},refcount_bits=${c.refcountBits}${type}`
}

/** Where one image of the case stands and what it is made on. */
export interface Made {
  readonly path: string
  readonly backing: { readonly file: string; readonly format: string } | undefined
}

/** Makes what the image of the case is based on, by QEMU; returns undefined for none. */
export function makeBacking(shop: Workshop, c: Case, stem: string): Made['backing'] {
  if (c.backing === 'none') {
    return undefined
  }
  const size = sizeOf(c)
  if (c.backing === 'raw') {
    const file = shop.path(`${stem}-base.raw`)
    shop.img('create', '-q', '-f', 'raw', file, String(size - 300 * 512))
    shop.io(file, 'raw', fitting(plain(c, 1), size - 300 * 512))
    return { file, format: 'raw' }
  }
  const bottom = shop.path(`${stem}-base.qcow2`)
  shop.img('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', bottom, String(size - 500 * 512))
  shop.io(bottom, 'qcow2', fitting(plain(c, 2), size - 500 * 512))
  if (c.backing === 'qcow2') {
    return { file: bottom, format: 'qcow2' }
  }
  const middle = shop.path(`${stem}-middle.qcow2`)
  shop.img('create', '-q', '-f', 'qcow2', '-b', bottom, '-F', 'qcow2', middle, String(size - 100 * 512))
  shop.io(middle, 'qcow2', fitting(plain(c, 3), size - 100 * 512))
  return { file: middle, format: 'qcow2' }
}

/** The history of a backing file is the same whether the image above it is compressed or not. */
function plain(c: Case, salt: number): Operation[] {
  return operationsOf({ ...c, compression: 'none' }, salt)
}

function fitting(operations: readonly Operation[], size: number): string[] {
  return operations
    .filter((operation) => operation.kind !== 'compress' && operation.offset + operation.bytes <= size)
    .map(commandOf)
}

/** Makes the image of a case with QEMU's tools. */
export function makeWithQemu(shop: Workshop, c: Case, stem: string): Made {
  const path = shop.path(`${stem}.${c.format}`)
  const backing = makeBacking(shop, c, stem)
  const args = ['create', '-q', '-f', c.format]
  if (c.format === 'qcow2') {
    args.push('-o', createOptionsOf(c))
  }
  if (backing !== undefined) {
    args.push('-b', backing.file, '-F', backing.format)
  }
  shop.img(...args, path, String(sizeOf(c)))
  shop.io(path, c.format, operationsOf(c, 0).map(commandOf))
  return { path, backing }
}
