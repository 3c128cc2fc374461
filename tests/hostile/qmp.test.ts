import { expect, test } from 'vitest'
import { entities, QmpMonitor, type QmpTransport } from '../../src/qmp/index.js'

/** Pseudo-random numbers that are the same each time. */
function randomNumbers(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

class Client implements QmpTransport {
  readonly replies: string[] = []
  backlog = 0
  reading = true
  dropped = false

  write(text: string): undefined {
    if (this.replies.length < 100) {
      this.replies.push(text)
    }
    return undefined
  }

  setReading(wanted: boolean): void {
    this.reading = wanted
  }

  drop(): void {
    this.dropped = true
  }
}

const version = { qemu: { major: 7, minor: 2, micro: 0 }, package: '' }
const text = new TextEncoder()

/** A monitor whose commands do nothing: what is looked at is what comes before them. */
function makeMonitor(failures: unknown[]): QmpMonitor {
  const names = Object.entries(entities).filter(([, entity]) => !('event' in entity))
  const handlers = Object.fromEntries(names.map(([name]) => [name, () => ({})]))
  return new QmpMonitor({ version, handlers, onInternalError: (error) => failures.push(error) })
}

const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

async function served(monitor: QmpMonitor): Promise<void> {
  const client = new Client()
  const session = monitor.connect(client)
  session.feed(text.encode('{"execute":"qmp_capabilities"}{"execute":"query-version","id":"me"}'))
  for (let i = 0; i < 100 && client.replies.length < 3; i++) {
    await settle()
  }
  expect(client.replies[2]).toBe('{"return": {}, "id": "me"}\r\n')
  session.close()
}

const seeds = [
  '{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}',
  '{"execute":"blockdev-add","arguments":{"driver":"qcow2","node-name":"a","file":{"driver":"file","filename":"x"}}}',
  '{"execute":"transaction","arguments":{"actions":[{"type":"abort","data":{}}]},"id":[1,2.5e3,"\\u00e9"]}',
  '{"execute":"block-dirty-bitmap-merge","arguments":{"node":"a","target":"b","bitmaps":["c",{"node":"d","name":"e"}]}}',
  '{"exec-oob":"query-version","id":{"__proto__":{"constructor":null}}}',
  '{"execute":"__proto__","arguments":{"toString":1,"__proto__":2}}',
]

test('broken requests: every one is answered or read on, nothing fails inside, others are served', async () => {
  const failures: unknown[] = []
  const monitor = makeMonitor(failures)
  const random = randomNumbers(7)
  for (let round = 0; round < 300; round++) {
    const client = new Client()
    const session = monitor.connect(client)
    session.feed(text.encode('{"execute":"qmp_capabilities"}'))
    for (let i = 0; i < 8; i++) {
      const bytes = [...text.encode(seeds[random(seeds.length)])]
      for (let changes = random(6); changes > 0; changes--) {
        const at = random(bytes.length)
        const kind = random(4)
        if (kind === 0) {
          bytes[at] = random(256)
        } else if (kind === 1) {
          bytes.splice(at, random(10))
        } else if (kind === 2) {
          bytes.splice(at, 0, ...bytes.slice(random(bytes.length), random(bytes.length)))
        } else {
          bytes.splice(at, 0, ...text.encode('{}[],:"\\1-e.x'.slice(random(12))))
        }
      }
      session.feed(Uint8Array.from(bytes))
      await settle()
    }
    // Whatever state the lexer is in, this byte ends it.
    session.feed(Uint8Array.of(0xff, 0x0a))
    session.feed(text.encode('\n{"execute":"query-version","id":"end"}'))
    await settle()
    for (const reply of client.replies) {
      expect(() => void JSON.parse(reply)).not.toThrow()
    }
    session.close()
  }
  await served(monitor)
  expect(failures).toEqual([])
  expect(Object.hasOwn({}, 'toString')).toBe(false)
})

test('endless input takes bounded memory, and others are served meanwhile', async () => {
  const failures: unknown[] = []
  const monitor = makeMonitor(failures)
  const before = process.memoryUsage().rss
  const block = 1 << 20
  for (const [start, filler, blocks] of [
    ['{"execute":"', 'x', 17],
    ['', '[', 2],
    ['', '{"a":', 2],
    ['{"a":', '1', 17],
    // Nearly all of it is read on, with an error for each number and each comma.
    ['[', '1,', 0.1],
    ['["', '\\u00e9', 2],
  ] as const) {
    const client = new Client()
    const session = monitor.connect(client)
    session.feed(text.encode(start))
    const bytes = text.encode(filler.repeat(Math.ceil((block * Math.min(blocks, 1)) / filler.length)))
    for (let i = 0; i < blocks; i++) {
      session.feed(bytes)
      do {
        await settle()
      } while (!client.reading)
    }
    await served(monitor)
    session.close()
  }
  expect(process.memoryUsage().rss - before).toBeLessThan(220 << 20)
  expect(failures).toEqual([])
}, 60_000)

test('requests sent in one go wait, and reading stops while they do', async () => {
  const failures: unknown[] = []
  const monitor = makeMonitor(failures)
  const client = new Client()
  const session = monitor.connect(client)
  session.feed(text.encode(`{"execute":"qmp_capabilities"}${'{"execute":"query-version"}'.repeat(5000)}`))
  expect(client.reading).toBe(false)
  await served(monitor)
  for (let i = 0; i < 20_000 && !client.reading; i++) {
    await settle()
  }
  expect(client.reading).toBe(true)
  session.close()
})

test('who reads no events is dropped', () => {
  const monitor = makeMonitor([])
  const client = new Client()
  const session = monitor.connect(client)
  session.feed(text.encode('{"execute":"qmp_capabilities"}'))
  return settle().then(() => {
    client.backlog = 9 << 20
    monitor.emit('JOB_STATUS_CHANGE', { id: 'a', status: 'running' })
    expect(client.dropped).toBe(true)
  })
})
