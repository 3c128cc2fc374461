import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, expectTypeOf, test } from 'vitest'
import { connectQmp, isBlockError, type QmpEvent } from '../../../src/index.js'
import { startOurs, startTheirs } from './peers.js'

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'qmp-client-'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

describe.each([
  ['qemu-storage-daemon', startTheirs],
  ['our daemon', startOurs],
] as const)('with %s', (_name, start) => {
  test('commands, their results, errors and events', async () => {
    const dir = mkdtempSync(join(folder, 'd-'))
    await using peer = start(dir)
    ;(await peer.connect()).socket.destroy()
    await using client = await connectQmp(join(dir, 'qmp.sock'), { oob: true })
    expect(client.greeting.version.qemu).toMatchObject({ major: 7, minor: 2 })
    const { commands } = client
    const events = client.events()
    await commands.blockdevAdd({
      driver: 'raw',
      'node-name': 'a',
      file: { driver: 'null-co', size: 65536, 'read-zeroes': true },
    })
    const nodes = await commands.queryNamedBlockNodes({ flat: true })
    expectTypeOf(nodes[0]?.image['virtual-size']).toEqualTypeOf<number | undefined>()
    expect(nodes.find((node) => node['node-name'] === 'a')?.image['virtual-size']).toBe(65536)
    await expect(commands.blockdevDel({ 'node-name': 'zz' })).rejects.toThrow(
      "Failed to find node with node-name='zz'",
    )
    const missing = await client.execute('no-such-command').catch((error: unknown) => error)
    expect(isBlockError(missing) && missing.errorClass).toBe('CommandNotFound')
    await commands.blockdevCreate({
      'job-id': 'j',
      options: { driver: 'file', filename: join(dir, 'x'), size: 512 },
    })
    const seen: QmpEvent[] = []
    for await (const event of events) {
      seen.push(event)
      if (event.event === 'JOB_STATUS_CHANGE' && event.data.status === 'concluded') {
        break
      }
    }
    expect(seen.map((event) => event.event)).toContain('JOB_STATUS_CHANGE')
    expect(seen[0]?.timestamp.seconds).toBeGreaterThan(1e9)
    await commands.jobDismiss({ id: 'j' })
    const many = await Promise.all(Array.from({ length: 50 }, () => commands.queryVersion()))
    expect(many).toHaveLength(50)
    await expect(client.executeOutOfBand('query-version')).rejects.toThrow('does not support OOB')
    client.close()
    await expect(commands.queryVersion()).rejects.toThrow('The QMP connection has been closed')
    expect(await client.events().next()).toEqual({ done: true, value: undefined })
  })
})

test('with qemu-system-x86_64, commands of its own included', async () => {
  const path = join(folder, 'system.sock')
  const args = ['-machine', 'none', '-nographic', '-nodefaults', '-qmp', `unix:${path},server=on,wait=off`]
  const child = spawn('qemu-system-x86_64', args, { stdio: 'ignore' })
  try {
    for (let i = 0; i < 400; i++) {
      const free = await new Promise<boolean>((resolve) => {
        const socket = net.connect(path, () => {
          socket.destroy()
          resolve(true)
        })
        socket.on('error', () => resolve(false))
      })
      if (free) {
        break
      }
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    await using client = await connectQmp(path)
    expect(await client.execute('query-status')).toMatchObject({ status: 'running' })
    await client.commands.blockdevAdd({ driver: 'null-co', 'node-name': 'n', size: 512 })
    expect(await client.commands.queryNamedBlockNodes()).toHaveLength(1)
    const events = client.events()
    await client.commands.quit()
    expect((await events.next()).value?.event).toBe('SHUTDOWN')
  } finally {
    child.kill('SIGKILL')
  }
})

test('a server that speaks something else, and one that goes away', async () => {
  const path = join(folder, 'other.sock')
  const server = net.createServer((socket) => socket.end('220 mail.example.org\r\n'))
  await new Promise<void>((resolve) => server.listen(path, resolve))
  await expect(connectQmp({ path })).rejects.toThrow()
  server.close()
  await expect(connectQmp({ path: join(folder, 'gone.sock') })).rejects.toThrow('Failed to connect')
})
