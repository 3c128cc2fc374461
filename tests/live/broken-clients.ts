import net from 'node:net'
import type { seeded } from '../jobs/machine.js'

type Random = ReturnType<typeof seeded>

const pause = (milliseconds: number): Promise<void> =>
  new Promise((resolve) => setTimeout(resolve, milliseconds))

function pick<T>(random: Random, from: readonly [T, ...T[]]): T {
  return from[random(from.length)] ?? from[0]
}

function noise(random: Random, length: number): Buffer {
  return Buffer.from(Array.from({ length }, () => random(256)))
}

/** Sends pieces with a breath here and there, reads what comes or does not, and goes rudely or well. */
async function say(path: string, random: Random, pieces: readonly Uint8Array[]): Promise<void> {
  const socket = net.connect(path)
  socket.on('error', () => undefined)
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()))
  if (random(4) === 0) {
    // One that does not read what it is told.
    socket.pause()
  } else {
    socket.resume()
  }
  for (const piece of pieces) {
    if (socket.destroyed) {
      break
    }
    const cut = random(piece.length + 1)
    for (const part of random(3) === 0 ? [piece.subarray(0, cut), piece.subarray(cut)] : [piece]) {
      socket.write(part)
      if (random(4) === 0) {
        await pause(random(8))
      }
    }
  }
  await pause(random(60))
  if (random(3) === 0) {
    socket.end()
    await Promise.race([closed, pause(200)])
  }
  socket.destroy()
  await closed
}

/** Values that are likely to hurt. */
function number64(random: Random): bigint {
  return pick(random, [
    0n,
    1n,
    511n,
    512n,
    (1n << 31n) - 1n,
    (1n << 32n) - 1n,
    1n << 32n,
    (1n << 53n) + 1n,
    (1n << 63n) - 1n,
    1n << 63n,
    (1n << 64n) - 1n,
    BigInt(random(1 << 26)),
  ])
}

function option(random: Random): Buffer {
  const kind = pick(random, [1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 0, 0x7fffffff, random(64)])
  const name = pick(random, ['disk', '', 'x'.repeat(random(5000)), 'other', '\0\xff'])
  let data: Buffer = noise(random, random(40))
  if ((kind === 6 || kind === 7) && random(4) > 0) {
    data = Buffer.alloc(4 + name.length + 2 + 2)
    data.writeUInt32BE(random(5) === 0 ? random(0xffffffff) : name.length)
    data.write(name, 4, 'latin1')
    data.writeUInt16BE(random(3), 4 + name.length)
  } else if ((kind === 9 || kind === 10) && random(4) > 0) {
    const query = pick(random, ['base:', 'base:allocation', 'qemu:dirty-bitmap:', 'x'.repeat(random(5000))])
    data = Buffer.alloc(4 + name.length + 4 + 4 + query.length)
    data.writeUInt32BE(name.length)
    data.write(name, 4, 'latin1')
    data.writeUInt32BE(random(5) === 0 ? 0xffffffff : 1, 4 + name.length)
    data.writeUInt32BE(random(5) === 0 ? random(0xffffffff) : query.length, 8 + name.length)
    data.write(query, 12 + name.length, 'latin1')
  } else if (kind === 1 && random(2) === 0) {
    data = Buffer.from('disk')
  }
  const header = Buffer.alloc(16)
  header.writeBigUInt64BE(random(20) === 0 ? number64(random) : 0x49484156454f5054n)
  header.writeUInt32BE(kind, 8)
  header.writeUInt32BE(random(10) === 0 ? Number(number64(random) & 0xffffffffn) : data.length, 12)
  return Buffer.concat([header, data])
}

/** Reads, writes of nothing sensible, and worse; nothing that changes what an honest client of the disk sees. */
function request(random: Random): Buffer {
  const type = pick(random, [0, 0, 0, 1, 3, 5, 7, 8, random(65536)])
  const header = Buffer.alloc(28)
  header.writeUInt32BE(random(20) === 0 ? random(0xffffffff) : 0x25609513)
  header.writeUInt16BE(random(4) === 0 ? random(65536) : 0, 4)
  header.writeUInt16BE(type, 6)
  header.writeBigUInt64BE(number64(random), 8)
  header.writeBigUInt64BE(number64(random), 16)
  const length = pick(random, [0, 1, 512, 65536, 1 << 20, 32 << 20, (32 << 20) + 1, 0xffffffff])
  header.writeUInt32BE(length, 24)
  return type === 1 ? Buffer.concat([header, noise(random, random(4096))]) : header
}

/** One connection that speaks NBD badly. The export that it may write is `junk`. */
export async function breakNbd(path: string, random: Random): Promise<void> {
  const pieces: Buffer[] = []
  if (random(8) === 0) {
    pieces.push(noise(random, random(3000)))
  } else {
    const flags = Buffer.alloc(4)
    flags.writeUInt32BE(random(6) === 0 ? random(0xffffffff) : 3)
    pieces.push(flags)
    for (let i = random(pick(random, [3, 10, 300])); i > 0; i--) {
      pieces.push(option(random))
    }
    if (random(3) > 0) {
      const name = 'junk'
      const go = Buffer.alloc(16 + 4 + name.length + 2)
      go.writeBigUInt64BE(0x49484156454f5054n)
      go.writeUInt32BE(7, 8)
      go.writeUInt32BE(4 + name.length + 2, 12)
      go.writeUInt32BE(name.length, 16)
      go.write(name, 20)
      pieces.push(go)
      for (let i = random(pick(random, [3, 30, 300])); i > 0; i--) {
        pieces.push(request(random))
      }
    }
  }
  if (random(4) === 0) {
    const at = random(pieces.length)
    const piece = pieces[at]
    if (piece !== undefined && piece.length > 0) {
      piece[random(piece.length)] = random(256)
    }
  }
  await say(path, random, pieces)
}

/** What a stranger may do without harm to the disk, the exports and the monitors of others. */
const commands = [
  ...['query-jobs', 'query-block', 'query-named-block-nodes', 'query-blockstats', 'query-block-exports'],
  ...['query-chardev', 'query-version', 'query-commands', 'qom-list', 'qom-get', 'qom-list-types'],
  ...['qom-list-properties', 'x-debug-query-block-graph', 'query-block-jobs', 'job-pause', 'job-cancel'],
  ...['job-dismiss', 'job-finalize', 'job-complete', 'job-resume', 'block-job-set-speed', 'blockdev-add'],
  ...['blockdev-del', 'block_resize', 'block-dirty-bitmap-add', 'block-dirty-bitmap-remove'],
  ...['block-dirty-bitmap-merge', 'block-set-write-threshold', 'blockdev-reopen', 'block-stream'],
  ...['block-commit', 'blockdev-mirror', 'blockdev-backup', 'object-add', 'object-del', 'transaction'],
  ...[
    'x-blockdev-change',
    'x-blockdev-amend',
    'ringbuf-read',
    'nbd-server-add',
    'block-export-add',
    'nothing',
  ],
] as const

const junkName = (random: Random): string => `junk${random(8)}`

function anything(random: Random, depth = 0): unknown {
  const kind = random(depth > 3 ? 7 : 9)
  switch (kind) {
    case 0:
      return null
    case 1:
      return random(2) === 0
    case 2:
      return pick(random, [0, -1, 1.5, 1e300, 2 ** 53, -(2 ** 63), 2 ** 64, random(1 << 30)])
    case 3:
      return pick(random, ['', '\ud800', '%s%n', 'x'.repeat(random(3000)), '\u0000', '{"a":'])
    case 4:
    case 5:
    case 6:
      return junkName(random)
    case 7:
      return Array.from({ length: random(5) }, () => anything(random, depth + 1))
    default:
      return Object.fromEntries(
        Array.from({ length: random(5) }, () => [key(random), anything(random, depth + 1)]),
      )
  }
}

function key(random: Random): string {
  return pick(random, [
    ...([
      'driver',
      'node-name',
      'device',
      'target',
      'file',
      'sync',
      'job-id',
      'id',
      'size',
      'name',
      'node',
    ] as const),
    ...([
      'actions',
      'type',
      'data',
      'options',
      'read-only',
      'image',
      'speed',
      'path',
      'qom-type',
      '',
    ] as const),
  ])
}

function sensible(random: Random): Record<string, unknown> {
  const driver = pick(random, ['null-co', 'null-aio', 'blkdebug', 'raw', 'copy-on-read', 'quorum', 'qcow2'])
  return {
    driver,
    'node-name': junkName(random),
    ...(driver.startsWith('null') ? { size: 1 << random(30) } : { file: junkName(random) }),
    ...(random(3) === 0 ? { [key(random)]: anything(random) } : {}),
  }
}

function command(random: Random): string {
  const name = commands[random(commands.length)] ?? 'nothing'
  const common = {
    ...{ device: junkName(random), node: junkName(random), 'node-name': junkName(random) },
    ...{ target: junkName(random), 'job-id': junkName(random), id: junkName(random), sync: 'full' },
  }
  let args: unknown = anything(random)
  if (name === 'blockdev-add' && random(4) > 0) {
    args = sensible(random)
  } else if (random(2) === 0) {
    const names = Object.keys(common).filter(() => random(3) === 0)
    args = Object.fromEntries(names.map((one) => [one, common[one as keyof typeof common]]))
  }
  return JSON.stringify({
    execute: name,
    ...(random(8) === 0 ? {} : { arguments: args }),
    id: anything(random),
  })
}

/** One connection that speaks QMP badly. What it makes has names that begin with `junk`. */
export async function breakQmp(path: string, random: Random): Promise<void> {
  const pieces: Buffer[] = []
  if (random(6) > 0) {
    pieces.push(Buffer.from('{"execute":"qmp_capabilities"}'))
  }
  for (let i = random(pick(random, [4, 40])); i > 0; i--) {
    switch (random(14)) {
      case 0:
        pieces.push(noise(random, random(2000)))
        break
      case 1:
        pieces.push(Buffer.from('['.repeat(random(5000))))
        break
      case 2:
        pieces.push(Buffer.from(`"${'a'.repeat(random(200_000))}`))
        break
      case 3:
        pieces.push(Buffer.from(command(random).slice(0, random(60))))
        break
      case 4:
        pieces.push(Buffer.from('}]'.repeat(random(100))))
        break
      case 5: {
        const bytes = Buffer.from(command(random))
        bytes[random(bytes.length)] = random(256)
        pieces.push(bytes)
        break
      }
      case 6:
        pieces.push(Buffer.from([0xff, 0x0a]))
        break
      case 7:
        pieces.push(Buffer.from(`[${'1,'.repeat(random(30_000))}`))
        break
      default:
        pieces.push(Buffer.from(`${command(random)}\n`))
    }
  }
  await say(path, random, pieces)
}
