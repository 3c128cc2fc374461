import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { comparable } from '../text/fixture.js'
import { DebugShop } from './qemu.js'

let made: DebugShop | undefined

function shop(): DebugShop {
  if (made === undefined) {
    throw new Error('no images')
  }
  return made
}

beforeAll(() => {
  made = new DebugShop((qemu) => {
    qemu('qemu-img create -f raw a.raw 1M')
    qemu("qemu-io -f raw -c 'write -P 1 0 64k' -c 'write -P 3 512k 64k' a.raw")
    for (const name of ['b.raw', 'c.raw', 't.raw', 'src.raw']) {
      qemu(`cp --sparse=always a.raw ${name}`)
    }
    qemu("qemu-io -f raw -c 'write -P 7 8k 1k' b.raw")
    qemu("qemu-io -f raw -c 'write -P 5 4k 100k' src.raw")
    qemu('cp a.raw short.raw')
    qemu('truncate -s 512k short.raw')
    qemu('qemu-img create -f qcow2 q.qcow2 1M')
    qemu('touch log.raw')
    qemu(`sh -c 'printf "[inject-error]\\nevent = \\"l2_load\\"\\n" > cfg'`)
    qemu(`sh -c 'printf "[inject-error]\\nfoo = \\"x\\"\\n" > bad'`)
    qemu(`sh -c 'echo garbage > garbage'`)
  })
})

afterAll(() => {
  made?.remove()
})

const two =
  'children.0.driver=raw,children.0.file.filename=a.raw,children.1.driver=raw,children.1.file.filename=b.raw'
const three = `${two},children.2.driver=raw,children.2.file.filename=c.raw`
const log = 'driver=blklogwrites,file.driver=file,file.filename=t.raw,log.driver=file,log.filename=log.raw'
const debug = 'driver=qcow2,file.driver=blkdebug,file.image.filename=q.qcow2'

describe('texts and names', () => {
  test.each([
    'info blkdebug::q.qcow2',
    'info blkdebug:cfg:q.qcow2',
    'info blkdebug:q.qcow2',
    'info blkdebug:bad:q.qcow2',
    'info blkdebug:garbage:q.qcow2',
    'info blkdebug:nope:q.qcow2',
    `info --image-opts ${debug},file.align=512,file.max-transfer=4096,file.set-state.0.event=none`,
    `info --image-opts ${debug},file.align=3`,
    `info --image-opts ${debug},file.max-transfer=513,file.align=512`,
    `info --image-opts ${debug},file.inject-error.0.event=foo`,
    `info --image-opts ${debug},file.inject-error.0.errno=5`,
    `info --image-opts ${debug},file.inject-error.1.event=none`,
    `info --image-opts ${debug},file.inject-error.event=none`,
    `info --image-opts ${debug},file.take-child-perms.0=write`,
    `info --image-opts ${debug},file.take-child-perms.0=foo`,
    `info --image-opts ${debug},file.unshare-child-perms.1=write`,
    'create -f qcow2 blkdebug::new.qcow2 1M',
    'info -f raw blkverify:a.raw:q.qcow2',
    'info blkverify:a.raw',
    'info --image-opts driver=blkverify,test.filename=a.raw',
    `info --image-opts driver=quorum,vote-threshold=1,${two}`,
    `info --image-opts driver=quorum,vote-threshold=2,blkverify=on,${two}`,
    `info --image-opts driver=quorum,vote-threshold=2,rewrite-corrupted=on,${two}`,
    `info --image-opts driver=quorum,vote-threshold=3,${two}`,
    `info --image-opts driver=quorum,vote-threshold=1,read-pattern=foo,${two}`,
    'info --image-opts driver=quorum,vote-threshold=1,children.1.file.filename=a.raw',
    `info --image-opts driver=quorum,vote-threshold=1,${two},children.2.driver=raw,children.2.file.filename=short.raw`,
    'info --image-opts driver=qcow2,file.driver=quorum,file.vote-threshold=1,file.children.0.filename=q.qcow2',
    `map --output=json --image-opts driver=quorum,vote-threshold=1,${two}`,
    `resize --image-opts driver=quorum,vote-threshold=1,${two} 2M`,
    `info --image-opts ${log},log-sector-size=4096,log-super-update-interval=5`,
    `info --image-opts ${log},log-sector-size=100`,
    `info --image-opts ${log},log-append=on`,
    `info --image-opts ${log},log-append=on,log-sector-size=512`,
    `info --image-opts ${log},log-super-update-interval=0`,
    'info --image-opts driver=blklogwrites,file.driver=file,file.filename=t.raw',
    'info --image-opts driver=blklogwrites,log-append=on,file.driver=file,file.filename=t.raw,log.driver=file,log.filename=garbage',
  ])('qemu-img %s', async (line) => {
    const theirs = shop().theirs(line)
    const { status, stderr, stdout } = await shop().ours(line)
    expect({ status, stderr, stdout: comparable(stdout) }).toEqual({
      ...theirs,
      stdout: comparable(theirs.stdout),
    })
  })
})

test.each([
  ['two of three', 'vote-threshold=2', three],
  ['one of two: the newest', 'vote-threshold=1', two],
  ['the first that answers', 'vote-threshold=1,read-pattern=fifo', three],
])('quorum reads what QEMU reads: %s', async (_, how, children) => {
  const line = `convert -O raw --image-opts driver=quorum,${how},${children} out.raw`
  const out = join(shop().work, 'out.raw')
  expect(shop().theirs(line)).toMatchObject({ status: 0 })
  const theirs = readFileSync(out)
  expect(await shop().ours(line)).toMatchObject({ status: 0 })
  expect(readFileSync(out).equals(theirs)).toBe(true)
})

test('without a majority neither reads', async () => {
  const line = `convert -m 1 -O raw --image-opts driver=quorum,vote-threshold=3,${three} out.raw`
  const theirs = shop().theirs(line)
  const { status, stderr, stdout } = await shop().ours(line)
  expect({ status, stderr, stdout }).toEqual(theirs)
})

test.each([
  'convert -m 1 -f raw -O raw blkverify:a.raw:b.raw out.raw',
  `convert -m 1 -O raw --image-opts driver=quorum,vote-threshold=2,blkverify=on,${two} out.raw`,
])('a difference ends the program: %s', async (line) => {
  const theirs = shop().theirs(line)
  const ours = await shop().ours(line)
  expect(theirs).toEqual({ status: 1, stdout: '', stderr: `${ours.aborted[0]}\n` })
  expect(ours.status).toBe(1)
})

describe('blklogwrites writes the same log', () => {
  const write = 'convert -n -f raw -W -m 1 --target-image-opts src.raw'
  test.each([
    `${write} ${log}`,
    `${write} ${log},log-sector-size=4096`,
    `${write} ${log},log-super-update-interval=3`,
    `convert -t writeback -n -f raw -W -m 1 --target-image-opts src.raw ${log}`,
  ])('qemu-img %s', async (line) => {
    const file = join(shop().work, 'log.raw')
    expect(shop().theirs(line)).toMatchObject({ status: 0 })
    const theirs = readFileSync(file)
    expect(await shop().ours(line)).toMatchObject({ status: 0 })
    expect(theirs.length).toBeGreaterThan(1 << 20)
    expect(readFileSync(file).equals(theirs)).toBe(true)
  })
})
