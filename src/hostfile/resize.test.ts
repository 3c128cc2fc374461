import { describe, expect, test } from 'vitest'
import type { ErrnoName } from '../errors/index.js'
import type { Preallocation } from '../graph/index.js'
import { MemoryHost, type MemoryOperation } from '../testing/index.js'
import { resizeDevice, resizeRegularFile } from './resize.js'

interface Result {
  readonly error: string | undefined
  readonly warnings: string[]
  readonly log: string[]
  readonly size: number
}

function show(operation: MemoryOperation): string {
  switch (operation.kind) {
    case 'write':
      return `write ${operation.offset}+${operation.data.length}`
    case 'truncate':
      return `truncate ${operation.length}`
    default:
      return operation.kind
  }
}

async function resize(
  from: number,
  to: number,
  preallocation: Preallocation,
  fault?: (operation: MemoryOperation) => ErrnoName | undefined,
): Promise<Result> {
  const log: string[] = []
  const host = new MemoryHost({
    log: (operation) => {
      log.push(show(operation))
    },
    ...(fault === undefined ? {} : { fault }),
  })
  const contents = host.put('/f', new Uint8Array(from))
  const warnings: string[] = []
  let error: string | undefined
  try {
    await resizeRegularFile(host.open('/f', { write: true }), to, preallocation, (line) => {
      warnings.push(line)
    })
  } catch (thrown) {
    error = (thrown as Error).message
  }
  return { error, warnings, log, size: contents.size }
}

describe('resizeRegularFile', () => {
  test('a file grown from nothing gets a first block', async () => {
    expect((await resize(0, 1 << 20, 'off')).log).toEqual(['truncate 1048576', 'write 0+4096'])
    expect((await resize(0, 512, 'off')).log).toEqual(['truncate 512', 'write 0+512'])
    expect((await resize(0, 1 << 20, 'falloc')).log).toEqual(['truncate 1048576', 'write 0+4096'])
    expect((await resize(512, 1 << 20, 'off')).log).toEqual(['truncate 1048576'])
    expect((await resize(512, 0, 'off')).log).toEqual(['truncate 0'])
  })

  test('full preallocation writes the new part and syncs', async () => {
    const { log, size } = await resize(512, 512 + (5 << 19), 'full')
    expect(log).toEqual([
      'truncate 2621952',
      'write 512+1048576',
      'write 1049088+1048576',
      'write 2097664+524288',
      'flush',
    ])
    expect(size).toBe(2621952)
  })

  test('the first block may fail', async () => {
    const { error, size } = await resize(0, 8192, 'off', ({ kind }) => (kind === 'write' ? 'EIO' : undefined))
    expect(error).toBeUndefined()
    expect(size).toBe(8192)
  })

  test.each([
    ['off', 'truncate', 'EFBIG', 'Could not resize file: File too large'],
    ['falloc', 'truncate', 'ENOSPC', 'Could not preallocate new data: No space left on device'],
    ['full', 'write', 'ENOSPC', 'Could not write zeros for preallocation: No space left on device'],
    ['full', 'flush', 'EIO', 'Could not flush file to disk: Input/output error'],
  ] as const)('%s, %s failing with %s', async (preallocation, kind, code, text) => {
    let failed = false
    const result = await resize(512, 8192, preallocation, (operation) => {
      if (failed || operation.kind !== kind) {
        return undefined
      }
      failed = true
      return code
    })
    expect(result.error).toBe(text)
    expect(result.size).toBe(512)
    expect(result.warnings).toEqual([])
  })

  test('a length that cannot be restored is reported', async () => {
    const result = await resize(512, 8192, 'falloc', ({ kind }) => (kind === 'truncate' ? 'EIO' : undefined))
    expect(result.error).toBe('Could not preallocate new data: Input/output error')
    expect(result.warnings).toEqual(['Failed to restore old file length: Input/output error'])
  })

  test('what is refused outright', async () => {
    expect((await resize(8192, 512, 'full')).error).toBe('Cannot use preallocation for shrinking files')
    expect((await resize(512, 8192, 'metadata')).error).toBe('Unsupported preallocation mode: metadata')
  })
})

describe('resizeDevice', () => {
  const how = { exact: true, preallocation: 'off', zero: false } as const

  test('texts', () => {
    expect(() => {
      resizeDevice('block', 4096, 8192, how)
    }).toThrow('Cannot resize device files')
    expect(() => {
      resizeDevice('char', 0, 8192, { ...how, exact: false })
    }).toThrow('Cannot grow device files')
    expect(() => {
      resizeDevice('block', 4096, 8192, { ...how, preallocation: 'falloc' })
    }).toThrow("Preallocation mode 'falloc' unsupported for this non-regular file")
    expect(() => {
      resizeDevice('fifo', 0, 0, how)
    }).toThrow('Resizing this file is not supported')
  })

  test('the same size, or a smaller one that need not be exact, will do', () => {
    resizeDevice('block', 4096, 4096, how)
    resizeDevice('block', 4096, 512, { ...how, exact: false })
  })
})
