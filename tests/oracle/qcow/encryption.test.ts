import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import { afterAll, expect, test } from 'vitest'
import { addSecret } from '../../../src/formatkit/crypto/index.js'
import { createImage } from '../../../src/image/index.js'
import { ReqFlags } from '../../../src/io/index.js'
import { openImage } from '../../../src/library/index.js'
import { Workshop } from '../image/qemu.js'

const shop = new Workshop()
afterAll(() => shop.clear())

const passwords = ['', 'abc', 'sixteen bytes ok', 'more than sixteen bytes']

test.each(passwords)('password %j: what one writes the other reads', async (password) => {
  const id = `s${password.length}`
  addSecret(shop.layer, { id, format: 'raw', data: password })
  const secret = ['--object', `secret,id=${id},data=${password}`]
  const imageOpts = (file: string) => `driver=qcow,encrypt.key-secret=${id},file.filename=${file}`
  const create = `encrypt.format=aes,encrypt.key-secret=${id}`
  const open = async (file: string, readOnly: boolean) =>
    await openImage(shop.layer, file, { readOnly, format: 'qcow', options: { 'encrypt.key-secret': id } })
  const expected = new Uint8Array(1 << 20)
  expected.fill(7, 4000, 5000)
  expected.fill(9, 8192, 16384)
  expected.fill(3, 700000, 701000)

  const theirs = shop.path(`theirs-${id}`)
  execFileSync('qemu-img', ['create', '-q', ...secret, '-f', 'qcow', '-o', create, theirs, '1M'])
  const writes = ['write -P 7 4000 1000', 'write -P 9 8192 8192', 'write -P 3 700000 1000']
  const commands = writes.flatMap((write) => ['-c', write])
  execFileSync('qemu-io', [...secret, '--image-opts', imageOpts(theirs), ...commands])
  const reader = await open(theirs, true)
  expect(Buffer.compare(await reader.read(0, expected.length), expected)).toBe(0)
  await reader.close()

  const ours = shop.path(`ours-${id}`)
  await createImage(shop.layer, { filename: ours, format: 'qcow', options: create, size: 1 << 20 })
  const writer = await open(ours, false)
  await writer.write(4000, expected.slice(4000, 5000))
  await writer.write(8192, expected.slice(8192, 16384))
  await writer.write(700000, expected.slice(700000, 701000))
  await writer.close()
  const raw = shop.path(`raw-${id}`)
  execFileSync('qemu-img', ['convert', ...secret, '--image-opts', imageOpts(ours), '-O', 'raw', raw])
  expect(Buffer.compare(fs.readFileSync(raw), expected)).toBe(0)
  // No guest data stands in the clear.
  expect(fs.readFileSync(ours).includes(Buffer.alloc(64, 9))).toBe(false)
})

test('what is compressed would not be enciphered: it is refused', async () => {
  addSecret(shop.layer, { id: 'key', format: 'raw', data: 'key' })
  const file = shop.path('refused')
  const options = 'encrypt.format=aes,encrypt.key-secret=key'
  await createImage(shop.layer, { filename: file, format: 'qcow', options, size: 1 << 20 })
  const node = await shop.layer.open(file, { driver: 'qcow', 'encrypt.key-secret': 'key' }, { write: true })
  await expect(async () => {
    await node.write(0, 4096, new Uint8Array(4096), 0, ReqFlags.writeCompressed)
  }).rejects.toMatchObject({ code: 'ENOTSUP' })
  await shop.layer.unref(node)
})
