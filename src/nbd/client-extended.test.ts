import { describe, expect, test } from 'vitest'
import { raw } from '../drivers/format/raw/index.js'
import { file } from '../drivers/protocol/file/index.js'
import { NbdExport, NbdServer } from '../exports/index.js'
import { createBlockLayer } from '../graph/index.js'
import type { HostSocket, HostSockets } from '../host/index.js'
import { MemoryHost, MemorySocket } from '../testing/index.js'
import { ClientConnection, Cmd, connectExport } from './index.js'

// Requests and replies with 64-bit lengths, as the client sees them.

const GiB = 2 ** 30
const TiB = 2 ** 40

describe('with our server', () => {
  test('ranges without data may be longer than 32 bits', async () => {
    const host = new MemoryHost()
    const contents = host.put('/a')
    contents.truncate(2 * TiB)
    contents.write(0, new Uint8Array(65_536).fill(1))
    contents.write(5 * GiB, new Uint8Array(65_536).fill(2))
    contents.write(TiB, new Uint8Array(65_536).fill(3))
    const layer = createBlockLayer({ host, drivers: [raw, file] })
    const node = await layer.open('/a', { driver: 'raw' }, { write: true, unmap: true })
    const served = await NbdExport.create(layer, node, { name: 'a', writable: true })
    let accept: ((socket: HostSocket) => void) | undefined
    const sockets: HostSockets = {
      listen: async (address, _options, accepted) => {
        accept = accepted
        return { address, close: async () => undefined }
      },
      connect: () => Promise.reject(new Error('not here')),
    }
    const server = new NbdServer({ sockets })
    server.add(served)
    await server.listen({ type: 'unix', path: '/s' })
    server.start()
    const [ours, theirs] = MemorySocket.pair()
    accept?.(theirs)
    const negotiation = await connectExport(ours, { name: 'a', context: 'base:allocation' })
    expect(negotiation.headers).toBe('extended')
    const client = new ClientConnection(negotiation)
    const extents: number[] = []
    const ask = async (offset: number, bytes: number): Promise<number[]> => {
      extents.length = 0
      await client.status(offset, bytes, { add: (length, flags) => extents.push(length, flags) > 0 })
      return extents
    }
    expect(await ask(6 * GiB, TiB - 6 * GiB)).toEqual([TiB - 6 * GiB, 3])
    await client.command(Cmd.writeZeroes, 0, 0, 6 * GiB)
    const sector = new Uint8Array(512).fill(9)
    await client.read(5 * GiB, 512, sector, 0)
    expect(sector).toEqual(new Uint8Array(512))
    await client.read(TiB, 512, sector, 0)
    expect(sector).toEqual(new Uint8Array(512).fill(3))
    await client.command(Cmd.trim, 0, 6 * GiB, TiB)
    expect(await ask(0, 2 * TiB)).toEqual([2 * TiB, 3])
    const data = new Uint8Array(100_000).fill(7)
    await client.write(TiB + 1, data.length, data, 0, true)
    const back = new Uint8Array(data.length)
    await client.read(TiB + 1, back.length, back, 0)
    expect(back).toEqual(data)
    await expect(client.command(Cmd.trim, 0, 2 * TiB, 512)).rejects.toMatchObject({ code: 'EINVAL' })
    await client.close()
    await server.close()
    await served.close()
    await layer.unref(node)
    await layer.closeAll()
  })
})

function number(value: number, bytes: number): number[] {
  return Array.from({ length: bytes }, (_, i) => Math.floor(value / 256 ** (bytes - 1 - i)) % 256)
}

/** A reply to an option. */
function answer(option: number, type: number, data: readonly number[] = []): number[] {
  return [
    ...number(0x0003e889, 4),
    ...number(0x045565a9, 4),
    ...number(option, 4),
    ...number(type, 4),
    ...number(data.length, 4),
    ...data,
  ]
}

/** A chunk of the reply to the request of slot 0. */
function chunk(type: number, data: readonly number[], offset = 4096, length = data.length): number[] {
  const head = [...number(0x6e8a278c, 4), ...number(1, 2), ...number(type, 2), ...number(0, 8)]
  return [...head, ...number(offset, 8), ...number(length, 8), ...data]
}

const greeting = [...new TextEncoder().encode('NBDMAGICIHAVEOPT'), 0, 3]
const context = [...number(5, 4), ...new TextEncoder().encode('base:allocation')]
const info = [...number(0, 2), ...number(TiB, 8), ...number(0b1101101, 2)]
const unsupported = 0x80000001

/** A server that has said everything before it was asked. */
async function connected(extended: readonly number[], ...replies: readonly number[][]) {
  const [ours, theirs] = MemorySocket.pair()
  const bytes = [
    ...greeting,
    ...extended,
    ...answer(10, 4, context),
    ...answer(10, 1),
    ...answer(7, 3, info),
    ...answer(7, 1),
  ]
  void theirs.write(Uint8Array.from(bytes), 0, bytes.length)
  const negotiation = await connectExport(ours, { name: '', context: 'base:allocation' })
  const client = new ClientConnection(negotiation)
  return {
    client,
    send: () => {
      for (const reply of replies) {
        void theirs.write(Uint8Array.from(reply), 0, reply.length)
      }
    },
  }
}

test.each([
  ['does not know them', [...answer(11, unsupported), ...answer(8, 1)]],
  ['does not want them', [...answer(11, 0x80000002, [110, 111]), ...answer(8, 1)]],
])('a server that %s gets structured replies instead', async (_, replies) => {
  const { client } = await connected(replies)
  expect(client.negotiation.headers).toBe('structured')
  await client.close()
})

test('nor must a server know structured replies', async () => {
  const [ours, theirs] = MemorySocket.pair()
  const options = [
    ...answer(11, unsupported),
    ...answer(8, unsupported),
    ...answer(7, 3, info),
    ...answer(7, 1),
  ]
  void theirs.write(Uint8Array.from([...greeting, ...options]), 0, greeting.length + options.length)
  const negotiation = await connectExport(ours, { name: '', context: 'base:allocation' })
  expect(negotiation).toMatchObject({ headers: 'simple', contextId: undefined })
  ours.destroy()
})

describe('a server that breaks the rules is left', () => {
  const extent = [...number(65_536, 8), ...number(3, 8)]
  const status = (id: number, count: number, ...data: readonly number[]): number[] => [
    ...number(id, 4),
    ...number(count, 4),
    ...data,
  ]

  test('and this one does not', async () => {
    const { client, send } = await connected(answer(11, 1), chunk(6, status(5, 1, ...extent)))
    const extents: number[] = []
    const asked = client.status(4096, 6 * GiB, { add: (...extent) => extents.push(...extent) > 0 })
    send()
    await asked
    expect(extents).toEqual([65_536, 3])
    await client.close()
  })

  test.each<[string, number[], string]>([
    [
      'another offset',
      chunk(6, status(5, 1, ...extent), 8192),
      'reply for offset 8192, when 4096 was asked for',
    ],
    ['another context', chunk(6, status(6, 1, ...extent)), 'unexpected context id 6'],
    ['a wrong count', chunk(6, status(5, 2, ...extent)), '2 extents do not fit'],
    ['half an extent', chunk(6, status(5, 0, ...extent.slice(8))), 'invalid payload'],
    ['no extents', chunk(6, status(5, 0)), 'invalid payload'],
    ['an empty extent', chunk(6, status(5, 1, ...number(0, 8), ...number(0, 8))), 'zero length'],
    [
      'extents of 32 bits',
      chunk(5, [...number(5, 4), ...number(65_536, 4), ...number(3, 4)]),
      'invalid payload',
    ],
    ['a chunk without end', chunk(6, [], 4096, 2 ** 60), 'chunk of'],
    ['more than there may be', chunk(6, [], 4096, (2 << 20) + 65), 'chunk of'],
    ['data that was not asked for', chunk(1, number(4096, 9)), 'Unexpected NBD_REPLY_TYPE_OFFSET_DATA chunk'],
    ['a structured reply', [...number(0x668e33ef, 4), ...number(0, 40)], 'invalid magic (got 0x668e33ef)'],
    ['a simple reply', [...number(0x67446698, 4), ...number(0, 40)], 'invalid magic (got 0x67446698)'],
    [
      'another request',
      [...number(0x6e8a278c, 4), 0, 1, 0, 0, ...number(7, 8), ...number(0, 16)],
      'unknown request',
    ],
  ])('%s', async (_, reply, text) => {
    const { client, send } = await connected(answer(11, 1), reply)
    const asked = client.status(4096, 6 * GiB, { add: () => true })
    send()
    await expect(asked).rejects.toMatchObject({ code: 'EIO' })
    expect(String(client.lost)).toContain(text)
    await client.close()
  })
})
