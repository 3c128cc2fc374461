import { describe, expect, test } from 'vitest'
import { ioError } from '../errors/index.js'
import type { HostFile } from '../host/index.js'
import { defaultLimits, type IoNode, ReqFlags } from '../io/index.js'
import type { Maybe } from '../sched/index.js'
import { DeviceData, RegularFileData } from './data.js'

type Answer = () => Maybe<boolean>

/** A file that only records which operations it is asked for, and answers as told. */
function fake(
  answers: { punch?: Answer; zero?: Answer; allocate?: Answer; discard?: Answer },
  size = 1 << 20,
) {
  const calls: string[] = []
  const op =
    (name: string, answer: Answer = () => true) =>
    (offset: number, bytes: number) => {
      calls.push(`${name} ${offset}+${bytes}`)
      return answer()
    }
  const file = {
    punchHole: op('punch', answers.punch),
    zeroRange: op('zero', answers.zero),
    allocate: op('allocate', answers.allocate),
    discardDevice: op('discard', answers.discard),
    size: () => size,
    write(offset: number, bytes: number) {
      calls.push(`write ${offset}+${bytes}`)
    },
  }
  const node = { length: size, limits: defaultLimits() }
  return { calls, file: file as unknown as HostFile, node: node as unknown as IoNode }
}

const refuse = (): boolean => false
const fail = (code: 'EINVAL' | 'EBUSY' | 'ENOSPC') => (): boolean => {
  throw ioError(code)
}

async function zero(
  data: RegularFileData | DeviceData,
  offset: number,
  bytes: number,
  flags: number,
): Promise<number> {
  const out = { bytes: -1 }
  await data.zero(offset, bytes, flags, out)
  return out.bytes
}

describe('zeroing a regular file', () => {
  test('punches when it may unmap, else zeroes in place; both at once when the platform does', () => {
    const { calls, file, node } = fake({})
    const data = new RegularFileData(node, file)
    const out = { bytes: 0 }
    expect(data.zero(0, 65536, ReqFlags.mayUnmap, out)).toBeUndefined()
    expect(out.bytes).toBe(65536)
    expect(data.zero(65536, 4096, 0, out)).toBeUndefined()
    expect(out.bytes).toBe(4096)
    expect(calls).toEqual(['punch 0+65536', 'zero 65536+4096'])
  })

  test('without zero-range: punch and allocate again', async () => {
    const { calls, file, node } = fake({ zero: refuse })
    const data = new RegularFileData(node, file)
    expect(await zero(data, 0, 65536, 0)).toBe(65536)
    expect(await zero(data, 0, 65536, 0)).toBe(65536)
    expect(calls).toEqual([
      'zero 0+65536',
      'punch 0+65536',
      'allocate 0+65536',
      'punch 0+65536',
      'allocate 0+65536',
    ])
  })

  test('a refusal of an odd range is not remembered', async () => {
    const { calls, file, node } = fake({ zero: refuse })
    const data = new RegularFileData(node, file)
    await zero(data, 0, 512, 0)
    await zero(data, 0, 512, 0)
    expect(calls.filter((call) => call.startsWith('zero'))).toHaveLength(2)
  })

  test('past the end allocation is enough; within the file it is not', async () => {
    const { calls, file, node } = fake({ zero: refuse, punch: refuse })
    const data = new RegularFileData(node, file)
    expect(await zero(data, 1 << 20, 65536, 0)).toBe(65536)
    expect(await zero(data, 0, 65536, 0)).toBe(0)
    expect(calls).toEqual(['zero 1048576+65536', 'punch 1048576+65536', 'allocate 1048576+65536'])
  })

  test('unmapping past the end grows the file by a write, never by a truncation', async () => {
    const { calls, file, node } = fake({}, 65536)
    const data = new RegularFileData(node, file)
    expect(await zero(data, 0, 131072, ReqFlags.mayUnmap)).toBe(131072)
    expect(await zero(data, 65536, 65536, ReqFlags.mayUnmap)).toBe(65536)
    expect(calls).toEqual(['punch 0+131072', 'write 131071+1', 'write 131071+1'])
  })

  test.each(['EINVAL', 'EBUSY'] as const)('a hole refused with %s falls back to zeroing', async (code) => {
    const { calls, file, node } = fake({ punch: fail(code) })
    const data = new RegularFileData(node, file)
    expect(await zero(data, 0, 65536, ReqFlags.mayUnmap)).toBe(65536)
    expect(calls).toEqual(['punch 0+65536', 'zero 0+65536'])
  })

  test('a full file system is an error', () => {
    const { file, node } = fake({ zero: fail('ENOSPC') })
    const data = new RegularFileData(node, file)
    expect(() => data.zero(0, 65536, 0, { bytes: 0 })).toThrow('No space left on device')
  })

  test('works the same when the platform answers later', async () => {
    const late = fake({ punch: async () => await Promise.reject(ioError('EBUSY')), zero: async () => true })
    expect(await zero(new RegularFileData(late.node, late.file), 0, 65536, ReqFlags.mayUnmap)).toBe(65536)
    expect(late.calls).toEqual(['punch 0+65536', 'zero 0+65536'])
  })
})

describe('discarding', () => {
  test('a regular file is punched; a refusal is remembered', () => {
    const { calls, file, node } = fake({ punch: refuse })
    const data = new RegularFileData(node, file)
    const out = { bytes: 9 }
    void data.discard(0, 65536, out)
    expect(out.bytes).toBe(0)
    void data.discard(0, 65536, out)
    expect(calls).toEqual(['punch 0+65536'])
  })

  test('a device gets its own request', () => {
    const { calls, file, node } = fake({})
    const out = { bytes: 0 }
    void new DeviceData(node, file, false).discard(512, 1024, out)
    expect(out.bytes).toBe(1024)
    expect(calls).toEqual(['discard 512+1024'])
  })
})

describe('zeroing a device', () => {
  test('past the page cache only with O_DIRECT, and never when fallback is forbidden', async () => {
    const { calls, file, node } = fake({})
    expect(await zero(new DeviceData(node, file, false), 0, 4096, 0)).toBe(-1)
    expect(await zero(new DeviceData(node, file, true), 0, 4096, ReqFlags.noFallback)).toBe(-1)
    expect(calls).toEqual([])
    expect(await zero(new DeviceData(node, file, true), 0, 4096, 0)).toBe(4096)
    expect(await zero(new DeviceData(node, file, false), 0, 4096, ReqFlags.mayUnmap)).toBe(4096)
    expect(calls).toEqual(['zero 0+4096', 'punch 0+4096'])
  })
})
