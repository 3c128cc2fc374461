import { describe, expect, test } from 'vitest'
import { raw } from '../../drivers/format/raw/index.js'
import { file } from '../../drivers/protocol/file/index.js'
import { hostDevice } from '../../drivers/protocol/host_device/index.js'
import { createBlockLayer } from '../../graph/index.js'
import { MemoryHost } from '../../testing/index.js'
import type { ToolContext } from '../context.js'
import { run } from './run.js'

const zoneBytes = 1 << 20

/** A device of 4 zones of 1 MiB, the first conventional, 768 KiB of the others writable. */
async function io(
  ...commands: string[]
): Promise<{ stdout: string; stderr: string; code: number; data: Uint8Array }> {
  return await ioWith([], ...commands)
}

async function ioWith(
  options: readonly string[],
  ...commands: string[]
): Promise<{ stdout: string; stderr: string; code: number; data: Uint8Array }> {
  const host = new MemoryHost()
  const device = host.putZoned('/dev/zoned', {
    size: 4 * zoneBytes,
    zoneBytes,
    conventional: 1,
    capacity: 768 << 10,
    maxAppendBytes: 128 << 10,
  })
  host.put('/plain', new Uint8Array(1 << 20))
  let stdout = ''
  let stderr = ''
  const context: ToolContext = {
    program: 'qemu-io',
    stdout: (text) => {
      stdout += text
    },
    stderr: (text) => {
      stderr += text
    },
    sink: {
      write: () => Promise.reject(new Error('no stream')),
      close: () => Promise.resolve(),
    } as unknown as ToolContext['sink'],
    source: {} as unknown as ToolContext['source'],
    terminal: undefined,
    createLayer: () => Promise.resolve(createBlockLayer({ host, drivers: [raw, file, hostDevice] })),
    signal: new AbortController().signal,
    onProgressRequest: () => () => undefined,
  }
  const path = options.at(-1)?.startsWith('/') === true ? [] : ['/dev/zoned']
  const argv = ['-f', 'raw', ...commands.flatMap((line) => ['-c', line]), ...options, ...path]
  const code = await run(argv, context)
  return { stdout, stderr, code, data: device.bytes() }
}

describe('a zoned device', () => {
  test('zones are listed in sectors', async () => {
    expect(await io('zone_report 0 10')).toMatchObject({
      code: 0,
      stderr: '',
      stdout:
        'start: 0x0, len 0x800, cap 0x800, wptr 0x0, zcond:0, [type: 1]\n' +
        'start: 0x800, len 0x800, cap 0x600, wptr 0x800, zcond:1, [type: 2]\n' +
        'start: 0x1000, len 0x800, cap 0x600, wptr 0x1000, zcond:1, [type: 2]\n' +
        'start: 0x1800, len 0x800, cap 0x600, wptr 0x1800, zcond:1, [type: 2]\n',
    })
    expect((await io('zrp 2M 1')).stdout).toBe(
      'start: 0x1000, len 0x800, cap 0x600, wptr 0x1000, zcond:1, [type: 2]\n',
    )
    expect((await io('zrp 4M 1')).stdout).toBe('zone report failed: Invalid argument\n')
    expect((await io('zrp 0 0')).stdout).toBe('')
    expect((await io('zrp 0 4G')).stdout).toBe('Number of zones must be less than 2^32\n')
  })

  test('opens, closes, finishes and resets', async () => {
    const { stdout } = await io(
      'zo 1M 1M',
      'zrp 1M 1',
      'zc 1M 1M',
      'zrp 1M 1',
      'zf 1M 2M',
      'zrp 1M 2',
      'zrs 1M 3M',
      'zrp 1M 2',
    )
    const conditions = [...stdout.matchAll(/wptr (\w+), zcond:(\d+)/g)].map(
      ([, at, condition]) => `${at} ${condition}`,
    )
    expect(conditions).toEqual(['0x800 3', '0x800 1', '0x1000 14', '0x1800 14', '0x800 1', '0x1000 1'])
  })

  test('appends where the zone is written next, several at once in turn', async () => {
    const { stdout, data } = await io(
      'zap -p 1M 4k 512',
      'zap -p 1M 512',
      'zone_append -p 2M 512',
      'zrp 1M 1',
    )
    expect(stdout).toBe(
      'After zap done, the append sector is 0x800\n' +
        'After zap done, the append sector is 0x809\n' +
        'After zap done, the append sector is 0x1000\n' +
        'start: 0x800, len 0x800, cap 0x600, wptr 0x80a, zcond:2, [type: 2]\n',
    )
    expect(data.subarray(zoneBytes, zoneBytes + 5120).every((byte) => byte === 0xcd)).toBe(true)
    expect(data[zoneBytes + 5120]).toBe(0)
  })

  test('plain writes must be at the write pointer, as the device says', async () => {
    const { stdout } = await io('write 1M 4k', 'write 1M 4k', 'write 0 512')
    expect(stdout.match(/wrote|failed: .*/g)).toEqual(['wrote', 'failed: Input/output error', 'wrote'])
  })

  test.each([
    ['zap 512 512', 'zone append failed: Invalid argument\n'],
    ['zap 0 512', 'zone append failed: Invalid argument\n'],
    ['zap 1M 100', 'zone append failed: Invalid argument\n'],
    ['zap 1M 256k', 'zone append failed: Invalid argument\n'],
    ['zap 4M 512', 'zone append failed: Input/output error\n'],
    ['zo 512 1M', 'zone open failed: Invalid argument\n'],
    ['zc 1M 512', 'zone close failed: Invalid argument\n'],
    ['zrs 0 1M', 'zone reset failed: Input/output error\n'],
    ['zf 3M 2M', 'zone finish failed: Input/output error\n'],
    ['zo x 1M', 'Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- x\n'],
  ])('%s', async (command, stdout) => {
    expect(await io(command)).toMatchObject({ code: 1, stdout, stderr: '' })
  })

  test('a full zone takes nothing more', async () => {
    const appends = Array.from({ length: 6 }, () => 'zap 1M 128k')
    expect((await io(...appends, 'zrp 1M 1', 'zap 1M 512')).stdout).toBe(
      'start: 0x800, len 0x800, cap 0x600, wptr 0xe00, zcond:14, [type: 2]\n' +
        'zone append failed: No space left on device\n',
    )
  })

  test('read-only', async () => {
    expect((await ioWith(['-r'], 'zrs 1M 1M')).stdout).toBe('zone reset failed: Operation not permitted\n')
    expect((await ioWith(['-r'], 'zap 1M 512')).stderr).toBe('qemu-io: Block node is read-only\n')
  })
})

test.each([
  ['zone_report 0 1', 'report'],
  ['zone_open 0 1M', 'open'],
  ['zone_close 0 1M', 'close'],
  ['zone_finish 0 1M', 'finish'],
  ['zone_reset 0 1M', 'reset'],
  ['zone_append 0 512', 'append'],
])('%s of what has no zones', async (command, what) => {
  expect(await ioWith(['/plain'], command)).toMatchObject({
    code: 1,
    stdout: `zone ${what} failed: Operation not supported\n`,
  })
})

test('aio_discard', async () => {
  const { stdout, code } = await ioWith(
    ['/plain'],
    'aio_discard 0 64k',
    'aio_discard -q 0 512',
    'aio_discard 2M 512',
    'aio_flush',
  )
  expect(stdout.replace(/ops; .*/, 'ops')).toBe(
    'aio_discard failed: Input/output error\ndiscarded  65536/65536 bytes at offset 0\n64 KiB, 1 ops\n',
  )
  expect(code).toBe(0)
})

test.each([
  'read -r 0 512',
  'readv -r 0 512',
  'write -r 0 512',
  'writev -r 0 512',
  'aio_read -r 0 512',
  'aio_write -r 0 512',
])('%s: registered buffers can be asked for', async (command) => {
  const { stdout, code } = await ioWith(['/plain'], command, 'aio_flush')
  expect([code, /512\/512 bytes at offset 0/.test(stdout)]).toEqual([0, true])
})

test.each(['write -rz 0 512', 'aio_write -rz 0 512'])('%s', async (command) => {
  expect(await ioWith(['/plain'], command)).toMatchObject({
    code: 1,
    stdout: 'cannot combine zero write with registered I/O buffer\n',
  })
})
