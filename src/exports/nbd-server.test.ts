import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { raw } from '../drivers/format/raw/index.js'
import { file } from '../drivers/protocol/file/index.js'
import { isBlockError } from '../errors/index.js'
import { createBlockLayer } from '../graph/index.js'
import type { HostSocket, HostSockets } from '../host/index.js'
import {
  ClientConnection,
  Cmd,
  CmdFlags,
  connectExport,
  extendedRequestMagic,
  requestMagic,
} from '../nbd/index.js'
import { FakeClock, MemoryHost, MemorySocket } from '../testing/index.js'
import { NbdExport } from './nbd-export.js'
import { NbdServer, type NbdServerOptions } from './nbd-server.js'

const MiB = 1 << 20

/** A server on sockets in memory. */
async function setUp(options: Partial<NbdServerOptions> = {}, writable = true) {
  const host = new MemoryHost()
  host.put(
    '/a',
    new Uint8Array(MiB).map((_, i) => (i * 7 + (i >> 8)) & 255),
  )
  const layer = createBlockLayer({ host, drivers: [raw, file] })
  const node = await layer.open('/a', { driver: 'raw' }, { write: true })
  const served = await NbdExport.create(layer, node, { name: 'a', writable })
  let accept: ((socket: HostSocket) => void) | undefined
  const sockets: HostSockets = {
    listen: async (address, _options, accepted) => {
      accept = accepted
      return { address, close: async () => undefined }
    },
    connect: () => Promise.reject(new Error('not here')),
  }
  const reports: string[] = []
  const server = new NbdServer({ sockets, report: (text) => reports.push(text), ...options })
  server.add(served)
  await server.listen({ type: 'unix', path: '/s' })
  server.start()
  return {
    server,
    served,
    reports,
    connect(): MemorySocket {
      const [ours, theirs] = MemorySocket.pair()
      accept?.(theirs)
      return ours
    },
    async client(): Promise<ClientConnection> {
      return new ClientConnection(
        await connectExport(this.connect(), { name: 'a', context: 'base:allocation' }),
      )
    },
    async tearDown(): Promise<void> {
      await server.close()
      await served.close()
      await layer.unref(node)
      await layer.closeAll()
      expect(layer.nodes.size).toBe(0)
    },
  }
}

function settle(): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, 5)
  })
}

async function failure(run: () => unknown): Promise<string> {
  try {
    await run()
  } catch (error) {
    if (isBlockError(error)) {
      return error.code
    }
    throw error
  }
  throw new Error('expected a failure')
}

describe('client and server', () => {
  test('agree on data whatever pieces it comes in', async () => {
    const set = await setUp()
    for (const pieceBytes of [1, 7, 1000, Number.POSITIVE_INFINITY]) {
      const [ours, theirs] = MemorySocket.pair()
      theirs.pieceBytes = pieceBytes
      ours.pieceBytes = pieceBytes
      const socket = set.connect()
      socket.pieceBytes = pieceBytes
      const negotiation = await connectExport(socket, { name: 'a', context: 'base:allocation' })
      expect(negotiation.info.size).toBe(MiB)
      expect(negotiation.contextId).toBe(0)
      const client = new ClientConnection(negotiation)
      const data = new Uint8Array(pieceBytes === 1 ? 5000 : 200_000).map((_, i) => i * 3)
      await client.write(12345, data.length, data, 0, false)
      const back = new Uint8Array(data.length + 10)
      await client.read(12345, data.length, back, 10)
      expect(Buffer.compare(back.subarray(10), data)).toBe(0)
      await client.command(Cmd.writeZeroes, CmdFlags.noHole, 12345, 1000)
      await client.command(Cmd.trim, 0, 0, 4096)
      await client.command(Cmd.cache, 0, 0, 4096)
      await client.command(Cmd.flush, 0, 0, 0)
      await client.read(12345, 1000, back, 0)
      expect(back.subarray(0, 1000).every((byte) => byte === 0)).toBe(true)
      await client.close()
    }
    await settle()
    expect(set.reports).toEqual([])
    expect(set.server.connections).toBe(0)
    await set.tearDown()
  })

  test('many clients with many requests each', async () => {
    const set = await setUp({ maxConnections: 0 })
    const clients = await Promise.all(Array.from({ length: 50 }, () => set.client()))
    await Promise.all(
      clients.map(async (client, i) => {
        const data = new Uint8Array(4096).fill(i + 1)
        await client.write(i * 4096, 4096, data, 0, false)
        await Promise.all(
          Array.from({ length: 40 }, async () => {
            const back = new Uint8Array(4096)
            await client.read(i * 4096, 4096, back, 0)
            expect(Buffer.compare(back, data)).toBe(0)
          }),
        )
        await client.close()
      }),
    )
    await set.tearDown()
  })

  test('requests that cannot be are refused, and the connection goes on', async () => {
    const set = await setUp({}, false)
    const client = await set.client()
    const data = new Uint8Array(100_000)
    expect(await failure(() => client.write(0, 100_000, data, 0, false))).toBe('EPERM')
    expect(await failure(() => client.command(Cmd.trim, 0, 0, 512))).toBe('EPERM')
    expect(await failure(() => client.read(MiB - 1, 2, data, 0))).toBe('EINVAL')
    expect(await failure(() => client.read(2 ** 60, 1, data, 0))).toBe('EINVAL')
    expect(await failure(() => client.command(99, 0, 0, 0))).toBe('EINVAL')
    expect(await failure(() => client.command(Cmd.flush, 0x80, 0, 0))).toBe('EINVAL')
    await client.read(0, 512, data, 0)
    await client.close()
    await set.tearDown()
  })
})

describe('the server', () => {
  test('lets clients wait beyond its limit, and drops those that do not negotiate', async () => {
    const clock = new FakeClock()
    const set = await setUp({ maxConnections: 1, clock, handshakeSeconds: 10 })
    const lazy = set.connect()
    const waiting = set.client()
    await settle()
    expect(set.server.connections).toBe(1)
    expect(lazy.read(new Uint8Array(18), 0, 18)).toBe(18)
    await clock.advance(11)
    const client = await waiting
    const buffer = new Uint8Array(1)
    expect(lazy.read(buffer, 0, 1)).toBe(0)
    await client.read(0, 1, buffer, 0)
    await client.close()
    await set.tearDown()
  })

  test('takes exports out softly and by force', async () => {
    const set = await setUp()
    const client = await set.client()
    expect(await failure(() => set.server.remove('a'))).toBe('EBUSY')
    expect(await failure(() => set.server.remove('b'))).toBe('ENOENT')
    expect(() => set.server.add(set.served)).toThrow("NBD server already has export named 'a'")
    await set.server.remove('a', true)
    expect(await failure(() => client.read(0, 1, new Uint8Array(1), 0))).toBe('EIO')
    expect(await failure(() => set.client())).toBe('EINVAL')
    await client.close()
    await set.tearDown()
  })
})

describe('extended headers', () => {
  test('carry 64-bit lengths in requests, replies and extents', async () => {
    const set = await setUp()
    const socket = set.connect()
    const input: number[] = []
    socket.onReadable = () => {
      const buffer = new Uint8Array(65536)
      for (let got = socket.read(buffer, 0, 65536); got !== undefined && got > 0; ) {
        input.push(...buffer.subarray(0, got))
        got = socket.read(buffer, 0, 65536)
      }
    }
    const send = (text: string): void => {
      const bytes = fromHex(text)
      void socket.write(bytes, 0, bytes.length)
    }
    const answer = async (): Promise<string> => {
      await settle()
      return Buffer.from(input.splice(0)).toString('hex')
    }
    const opts = '49484156454f5054'
    const reply = '0003e889045565a9'
    send('00000003')
    expect(await answer()).toBe('4e42444d4147494349484156454f50540003')
    send(`${opts}${hex32(11)}${hex32(0)}`)
    expect(await answer()).toBe(`${reply}${hex32(11)}${hex32(1)}${hex32(0)}`)
    // Structured replies are part of it already.
    send(`${opts}${hex32(8)}${hex32(0)}`)
    expect(await answer()).toContain(`${reply}${hex32(8)}8000000a`)
    const context = Buffer.from('base:allocation').toString('hex')
    send(`${opts}${hex32(10)}${hex32(28)}${hex32(1)}61${hex32(1)}${hex32(15)}${context}`)
    expect(await answer()).toBe(
      `${reply}${hex32(10)}${hex32(4)}${hex32(19)}${hex32(0)}${context}${reply}${hex32(10)}${hex32(1)}${hex32(0)}`,
    )
    send(`${opts}${hex32(7)}${hex32(7)}${hex32(1)}610000`)
    expect(await answer()).toContain(`${reply}${hex32(7)}${hex32(1)}${hex32(0)}`)
    const request = (type: number, offset: number, bytes: number): string =>
      `21e41c710000${hex32(type).slice(4)}0011223344556677${hex64(offset)}${hex64(bytes)}`
    const head = (type: string, offset: number, bytes: number): string =>
      `6e8a278c0001${type}0011223344556677${hex64(offset)}${hex64(bytes)}`
    send(request(Cmd.read, 256, 4))
    expect(await answer()).toBe(`${head('0001', 256, 12)}${hex64(256)}01080f16`)
    send(request(Cmd.flush, 0, 0))
    expect(await answer()).toBe(head('0000', 0, 0))
    send(request(Cmd.blockStatus, 0, MiB))
    expect(await answer()).toBe(`${head('0006', 0, 24)}${hex32(0)}${hex32(1)}${hex64(MiB)}${hex64(0)}`)
    send(request(Cmd.writeZeroes, 0, 2 ** 40))
    expect(await answer()).toContain('6e8a278c00018001')
    socket.destroy()
    await settle()
    await set.tearDown()
  })
})

/** Bytes that look like a client up to a point. */
const hostileBytes = fc.array(
  fc.oneof(
    fc.uint8Array({ maxLength: 64 }),
    fc.constantFrom(...['00000001', '00000003', '49484156454f5054'].map((text) => fromHex(text))),
    fc
      .tuple(
        fc.integer({ min: 0, max: 12 }),
        fc.integer({ min: 0, max: 40 }),
        fc.uint8Array({ maxLength: 40 }),
      )
      .map(([option, bytes, data]) => fromHex(`49484156454f5054${hex32(option)}${hex32(bytes)}`, data)),
    fc.constant(fromHex(`49484156454f5054${hex32(7)}${hex32(7)}${hex32(1)}610000`)),
    fc.constant(fromHex(`49484156454f5054${hex32(8)}${hex32(0)}`)),
    fc.constant(fromHex(`49484156454f5054${hex32(11)}${hex32(0)}`)),
    fc
      .tuple(
        fc.constantFrom(requestMagic, extendedRequestMagic),
        fc.integer({ min: 0, max: 63 }),
        fc.integer({ min: 0, max: 8 }),
        fc.oneof(fc.integer({ min: 0, max: 2 * MiB }), fc.constant(0xffffffff)),
        fc.oneof(fc.integer({ min: 0, max: 100_000 }), fc.constant(0xffffffff)),
        fc.uint8Array({ maxLength: 200 }),
      )
      .map(([magic, flags, type, offset, bytes, data]) =>
        fromHex(
          `${hex32(magic)}${hex32(flags * 65536 + type)}0000000011223344${hex32(0)}${hex32(offset)}${hex32(bytes)}`,
          data,
        ),
      ),
  ),
  { maxLength: 30 },
)

function hex32(value: number): string {
  return value.toString(16).padStart(8, '0')
}

function hex64(value: number): string {
  return value.toString(16).padStart(16, '0')
}

function fromHex(text: string, more: Uint8Array = new Uint8Array(0)): Uint8Array {
  return Uint8Array.from([...Buffer.from(text, 'hex'), ...more])
}

describe('hostile peers', () => {
  const runs = Number(process.env.BLOCKGRAPH_FUZZ_RUNS ?? 300)

  test('whatever a client sends, the server stays, and others are served', async () => {
    const set = await setUp()
    await fc.assert(
      fc.asyncProperty(hostileBytes, fc.boolean(), async (messages, polite) => {
        const socket = set.connect()
        const start = polite ? [fromHex('00000003')] : []
        try {
          for (const bytes of [...start, ...messages]) {
            void socket.write(bytes, 0, bytes.length)
          }
        } catch (error) {
          // It has hung up.
          expect(isBlockError(error)).toBe(true)
        }
        await settle()
        socket.destroy()
        await settle()
        expect(set.server.connections).toBe(0)
      }),
      { numRuns: runs },
    )
    const client = await set.client()
    await client.read(0, 4096, new Uint8Array(4096), 0)
    await client.close()
    await set.tearDown()
  }, 600_000)

  test('whatever a server sends, the client fails or connects, and requests end', async () => {
    const greeting = fromHex('4e42444d4147494349484156454f50540003')
    const reply = fc
      .tuple(
        fc.integer({ min: 1, max: 11 }),
        fc.constantFrom(1, 2, 3, 4, 0x80000001, 0x80000006),
        fc.uint8Array({ maxLength: 30 }),
      )
      .map(([option, type, data]) =>
        fromHex(`0003e889045565a9${hex32(option)}${hex32(type)}${hex32(data.length)}`, data),
      )
    const chunk = fc
      .tuple(fc.integer({ min: 0, max: 7 }), fc.integer({ min: 0, max: 2 }), fc.uint8Array({ maxLength: 40 }))
      .map(([type, slot, data]) =>
        fromHex(`668e33ef0001${hex32(type).slice(4)}00000000${hex32(slot)}${hex32(data.length)}`, data),
      )
    const extendedChunk = fc
      .tuple(fc.integer({ min: 0, max: 7 }), fc.integer({ min: 0, max: 2 }), fc.uint8Array({ maxLength: 40 }))
      .map(([type, slot, data]) =>
        fromHex(
          `6e8a278c0001${hex32(type).slice(4)}00000000${hex32(slot)}00000000${hex32(slot * 8)}00000000${hex32(data.length)}`,
          data,
        ),
      )
    const extended = fromHex(`0003e889045565a9${hex32(11)}${hex32(1)}${hex32(0)}`)
    const notExtended = fromHex(`0003e889045565a9${hex32(11)}80000001${hex32(0)}`)
    const structured = fromHex(`0003e889045565a9${hex32(8)}${hex32(1)}${hex32(0)}`)
    const context = fromHex(`0003e889045565a9${hex32(10)}${hex32(1)}${hex32(0)}`)
    const info = fromHex(
      `0003e889045565a9${hex32(7)}${hex32(3)}${hex32(12)}0000${'0000000000100000'}0001` +
        `0003e889045565a9${hex32(7)}${hex32(1)}${hex32(0)}`,
    )
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.oneof(fc.uint8Array({ maxLength: 50 }), reply, chunk, extendedChunk), { maxLength: 12 }),
        fc.constantFrom([], [notExtended, structured, context, info], [extended, context, info]),
        async (messages, polite) => {
          const [ours, theirs] = MemorySocket.pair()
          for (const bytes of [greeting, ...polite, ...messages]) {
            void theirs.write(bytes, 0, bytes.length)
          }
          const talk = async (): Promise<void> => {
            const client = new ClientConnection(
              await connectExport(ours, { name: '', context: 'base:allocation' }),
            )
            const reads = [0, 1, 2].map((i) => client.read(i * 8, 8, new Uint8Array(8), 0))
            setTimeout(() => theirs.destroy(), 2)
            await Promise.allSettled(reads)
            await client.close()
          }
          setTimeout(() => theirs.end(), 3)
          await talk().catch((error: unknown) => {
            expect(isBlockError(error), String(error)).toBe(true)
          })
        },
      ),
      { numRuns: runs },
    )
  }, 600_000)
})
