import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { introspect } from '../../../src/qmp/index.js'
import { startMachine, startOurs, startTheirs } from './peers.js'
import { call, record } from './transcript.js'

interface Info {
  readonly name: string
  readonly 'meta-type': string
}

/** Names of types are numbers; those of types that are not built in are missing from the row. */
function renumbered(schema: readonly Info[]): unknown {
  const numbers = new Map<string, string>()
  const names = new Set(schema.filter((one) => /^\d+$/.test(one.name)).map((one) => one.name))
  const number = (name: string): string => {
    const array = /^\[(\d+)\]$/.exec(name)
    const plain = array?.[1] ?? name
    if (!names.has(plain)) {
      return name
    }
    const known = numbers.get(plain) ?? `t${numbers.size}`
    numbers.set(plain, known)
    return array === null ? known : `[${known}]`
  }
  const keys = new Set(['name', 'type', 'arg-type', 'ret-type', 'element-type'])
  const walk = (value: unknown, key = ''): unknown => {
    if (Array.isArray(value)) {
      return value.map((inner) => walk(inner))
    }
    if (typeof value === 'object' && value !== null) {
      const record = value as Record<string, unknown>
      return Object.fromEntries(
        Object.keys(record)
          .sort()
          .map((name) => [name, walk(record[name], name)]),
      )
    }
    return typeof value === 'string' && keys.has(key) ? number(value) : value
  }
  return walk(schema)
}

test('query-qmp-schema: every command, event and type is as in the storage daemon, in its order', () => {
  const output = execFileSync(
    'sh',
    [
      '-c',
      `echo '{"execute":"qmp_capabilities"}{"execute":"query-qmp-schema"}{"execute":"quit"}' |
      qemu-storage-daemon --chardev stdio,id=c --monitor c`,
    ],
    { encoding: 'utf8', timeout: 10_000 },
  )
  const theirs = (JSON.parse(output.split('\r\n')[2] ?? '') as { return: Info[] }).return
  const ours = JSON.parse(JSON.stringify(introspect())) as Info[]
  expect(ours).toHaveLength(theirs.length)
  expect(renumbered(ours)).toEqual(renumbered(theirs))
})

test('query-commands: the same commands', async () => {
  const names: string[][] = []
  for (const start of [startTheirs, startOurs, startMachine]) {
    const dir = mkdtempSync(join(tmpdir(), 'qmp-commands-'))
    try {
      await using peer = start(dir)
      const [, answer = ''] = await record(peer, [call('query-commands')])
      names.push((JSON.parse(answer) as { return: { name: string }[] }).return.map(({ name }) => name).sort())
    } finally {
      rmSync(dir, { recursive: true, force: true })
    }
  }
  expect(names[1]).toEqual(names[0])
  expect(names[0]).toHaveLength(74)
  // A machine has more of them.
  expect(names[1]?.filter((name) => names[2]?.includes(name) !== true)).toEqual([])
})
