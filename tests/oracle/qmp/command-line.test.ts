import { execFile } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { run } from '../../../src/tools/storage-daemon/run.js'
import { testContext } from './peers.js'

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'qmp-cli-'))
  mkdirSync(join(folder, 'd'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

function theirs(args: readonly string[]): Promise<string> {
  return new Promise((resolve) => {
    const options = { timeout: 10_000, encoding: 'utf8', cwd: folder } as const
    const child = execFile('qemu-storage-daemon', args, options, (error, stdout, stderr) => {
      resolve(`${stdout}${stderr}exit ${String(error === null ? 0 : error.code)}`)
    })
    child.stdin?.end()
  })
}

async function ours(args: readonly string[]): Promise<string> {
  let output = ''
  const write = (text: string): void => {
    output += text
  }
  const code = await run(args, testContext(write, AbortSignal.timeout(10_000)))
  return `${output}exit ${code}`
}

const nullNode = ['--blockdev', 'null-co,node-name=a,size=1048576']
const nbd = ['--nbd-server', 'addr.type=inet,addr.host=127.0.0.1,addr.port=0']

/** Command lines that fail. */
const wrong: readonly (readonly string[])[] = [
  ['--blockdev', 'foo'],
  ['--blockdev=foo'],
  ['--blo', 'foo'],
  ['--blockdev', 'driver=foo,node-name=a'],
  ['--blockdev', 'null-co'],
  ['--blockdev', ''],
  ['--blockdev'],
  ['--blockdev', 'help'],
  ['--blockdev', 'null-co,node-name=a,size=foo'],
  ['--blockdev', 'null-co,node-name=a,size=1M'],
  ['--blockdev', 'null-co,node-name=a,size=99999999999999999999'],
  ['--blockdev', 'null-co,node-name=a,size.x=1'],
  ['--blockdev', 'null-co,node-name=a,read-only=foo'],
  ['--blockdev', 'null-co,node-name=a,zz=1'],
  ['--blockdev', 'null-co,node-name=a,zz.a=1'],
  ['--blockdev', 'null-co,node-name=a,zz'],
  ['--blockdev', 'null-co,node-name=a,,b'],
  ['--blockdev', 'null-co,node-name=0'],
  ['--blockdev', '{"driver":"null-co"}'],
  ['--blockdev', '{"driver":"null-co"'],
  ['--blockdev', '{"driver":"null-co","size":"1"}'],
  ['--blockdev', '{"driver":"null-co","size":1.5}'],
  [...nullNode, ...nullNode],
  ['--blockdev', 'file,node-name=a,filename=/nonexist'],
  ['--blockdev', 'raw,node-name=a,file=zz'],
  ['--blockdev', 'raw,node-name=a'],
  ['--blockdev', 'raw,node-name=a,file.driver=null-co,file.foo=1'],
  ['--blockdev', 'quorum,node-name=a,children.0=x,vote-threshold=1'],
  ['--blockdev', 'quorum,node-name=a,children.1=x,vote-threshold=1'],
  ['--foo'],
  ['--foo', '--version'],
  ['abc'],
  ['abc', '--blockdev', 'x'],
  ['--blockdev', 'x', 'abc'],
  ['-x'],
  ['-xV'],
  ['--chardev', 'foo'],
  ['--chardev', ''],
  ['--chardev', 'bar,id=a'],
  ['--chardev', 'id=a'],
  ['--chardev', 'null'],
  ['--chardev', 'null,id=0'],
  ['--chardev', 'null,id=a,foo=1'],
  ['--chardev', 'null,id=a', '--chardev', 'null,id=a'],
  ['--chardev', 'socket,id=a'],
  ['--chardev', 'socket,path=/x'],
  ['--chardev', 'socket,id=a,path=/nonexist/x,server=on'],
  ['--chardev', 'socket,id=a,path=/nonexist'],
  ['--chardev', 'socket,id=a,host=localhost,server=on,wait=off'],
  ['--chardev', 'socket,id=a,host=localhost,port=foo,server=on,wait=off'],
  ['--chardev', 'socket,id=a,host=127.0.0.1,port=1'],
  ['--chardev', 'socket,id=a,path=/x,host=y'],
  ['--chardev', 'socket,id=a,path=/x,wait=on'],
  ['--chardev', 'socket,id=a,path=/x,server=foo'],
  ['--chardev', 'socket,id=a,path=/x,server=on,reconnect=5'],
  ['--chardev', 'socket,id=a,path=/x,tls-creds=foo'],
  ['--chardev', 'socket,id=a,path=DIR/q,server,nowait', '--blockdev', 'x'],
  ['--chardev', 'file,id=a'],
  ['--chardev', 'file,id=a,path=/nonexist/x'],
  ['--chardev', 'ringbuf,id=a,size=7'],
  ['--chardev', 'ringbuf,id=a,size=foo'],
  ['--chardev', 'stdio,id=a', '--chardev', 'stdio,id=b'],
  ['--monitor', 'foo'],
  ['--monitor', ''],
  ['--monitor', 'help'],
  ['--monitor', 'chardev=foo'],
  ['--monitor', 'chardev=a,pretty=x'],
  ['--monitor', 'chardev=a,mode=x'],
  ['--monitor', 'chardev=a,mode=readline'],
  ['--chardev', 'null,id=a', '--monitor', 'chardev=a,mode=readline'],
  ['--chardev', 'null,id=a', '--monitor', 'a', '--monitor', 'a'],
  ['--nbd-server', 'foo'],
  ['--nbd-server', ''],
  ['--nbd-server', 'addr.type=unix'],
  ['--nbd-server', 'addr.type=unix,addr.path=/nonexist/x'],
  ['--nbd-server', 'addr.type=inet,addr.host=127.0.0.1,addr.port=0,max-connections=-1'],
  ['--nbd-server', 'addr.type=inet,addr.host=127.0.0.1,addr.port=0,tls-creds=x'],
  [...nbd, ...nbd],
  ['--export', ''],
  ['--export', 'help'],
  ['--export', 'nbd'],
  ['--export', '{"type":"nbd"}'],
  ['--export', 'nbd,id=a,node-name=b'],
  ['--export', 'type=foo,id=a,node-name=b'],
  ['--export', 'nbd,id=a,node-name=a,zz=1'],
  [...nullNode, '--export', 'nbd,id=a,node-name=a'],
  [...nullNode, ...nbd, '--export', 'nbd,id=a,node-name=a', '--export', 'nbd,id=a,node-name=a'],
  [...nullNode, ...nbd, '--export', 'nbd,id=a,node-name=a', '--export', 'nbd,id=b,node-name=a'],
  [...nullNode, ...nbd, '--export', 'nbd,id=0,node-name=a'],
  [...nullNode, ...nbd, '--export', 'nbd,id=a,node-name=a,bitmaps.0=x'],
  ['--object', 'foo'],
  ['--object', ''],
  ['--object', 'secret'],
  ['--object', '{"qom-type":"secret"}'],
  ['--object', 'secret,id=a'],
  ['--object', 'secret,id=a,data=1', '--object', 'secret,id=a,data=2'],
  ['--object', 'secret,help'],
  ['--pidfile'],
  ['--pidfile', '/nonexist/x'],
  ['--pidfile', '/nonexist/x', '--blockdev', 'foo'],
]

describe('the same messages and exit codes', () => {
  for (let at = 0; at < wrong.length; at += 12) {
    test(`command lines ${at} to ${Math.min(at + 12, wrong.length) - 1}`, async () => {
      for (const line of wrong.slice(at, at + 12)) {
        const args = line.map((word) => word.replace('DIR', folder))
        expect(`${args.join(' ')}\n${await ours(args)}`).toBe(`${args.join(' ')}\n${await theirs(args)}`)
      }
    })
  }
})

test('the version is on the first line, and help ends well', async () => {
  expect(await ours(['--version', '--foo'])).toMatch(/^qemu-storage-daemon version 7\.2\.\d+ .*\nexit 0$/)
  expect((await theirs(['--version'])).split(' (')[0]).toBe((await ours(['--version'])).split(' (')[0])
  expect(await ours(['--help'])).toMatch(
    /^Usage: qemu-storage-daemon (?:.|\n)*--blockdev(?:.|\n)*--pidfile(?:.|\n)*\nexit 0$/,
  )
})
