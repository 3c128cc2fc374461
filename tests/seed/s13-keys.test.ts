import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { allDrivers } from '../../src/all-drivers.js'
import { blockError, isBlockError } from '../../src/errors/index.js'
import {
  addEncryptionKey,
  Backend,
  type BlockDriver,
  createBlockLayer,
  isEncrypted,
  isKeyRequired,
  Perm,
  setEncryptionKey,
} from '../../src/graph/index.js'
import { createNodeHost } from '../../src/platform/node/index.js'
import { failure, memoryLayer, pattern } from './fixtures.js'

/** A format whose images are encrypted with the passphrase `open`. */
function vault(takesKeys = true): BlockDriver {
  return {
    name: takesKeys ? 'vault' : 'sealed',
    kind: 'format',
    supportsBacking: true,
    options: {},
    load: () => ({
      open: ({ file }) => {
        let hasKey = false
        return {
          length: 512,
          backingFile: file.node.filename === '/a' ? '/b' : undefined,
          map: {
            resolveRead: (offset, bytes, out) => {
              out.data(bytes, file.node, offset, 0)
              return undefined
            },
          },
          key: {
            encrypted: true,
            get hasKey() {
              return hasKey
            },
            ...(takesKeys
              ? {
                  setKey: async (key: Uint8Array) => {
                    hasKey = new TextDecoder().decode(key) === 'open'
                    if (!hasKey) {
                      throw blockError('EINVAL', 'wrong')
                    }
                  },
                }
              : {}),
          },
          close: () => undefined,
        }
      },
    }),
  }
}

const plainOverlay: BlockDriver = {
  name: 'overlay',
  kind: 'format',
  supportsBacking: true,
  options: {},
  load: () => ({
    open: () => ({
      length: 512,
      backingFile: '/b',
      map: {
        resolveRead: (_offset, bytes, out) => {
          out.unallocated(bytes)
          return undefined
        },
      },
      close: () => undefined,
    }),
  }),
}

const bytes = (text: string) => new TextEncoder().encode(text)
const [right, wrong] = [bytes('open'), bytes('shut')]

async function setup() {
  const made = memoryLayer({ drivers: [vault(), vault(false), plainOverlay] })
  for (const path of ['/a', '/b', '/c']) {
    made.host.put(path, pattern(512, 1))
  }
  const encrypted = (name = 'v') => made.layer.open('/c', { driver: 'vault', 'node-name': name })
  const over = (driver: string) =>
    made.layer.open('/a', {
      driver,
      'node-name': 'top',
      'backing.driver': 'vault',
      'backing.node-name': 'below',
    })
  return { ...made, encrypted, over }
}

test('row 102: a key is required while the image or its immediate backing file has none', async () => {
  const { layer, encrypted, over } = await setup()
  const plain = await layer.open('/a', { driver: 'raw' })
  expect([isEncrypted(plain), isKeyRequired(plain)]).toEqual([false, false])
  const own = await encrypted()
  expect([isEncrypted(own), isKeyRequired(own)]).toEqual([true, true])
  await setEncryptionKey(own, right)
  expect([isEncrypted(own), isKeyRequired(own)]).toEqual([true, false])
  const top = await over('overlay')
  expect([isEncrypted(top), isKeyRequired(top)]).toEqual([true, true])
  // The overlay itself needs none: done once the backing file has it.
  await setEncryptionKey(top, right)
  expect([isKeyRequired(top), top.backing?.state?.key?.hasKey]).toEqual([false, true])
  for (const node of [top, own, plain]) {
    await layer.unref(node)
  }
})

test('row 102: the backing file is given the key first, and a failure there is the end', async () => {
  const { layer, over } = await setup()
  const both = await over('vault')
  await expect(setEncryptionKey(both, wrong)).rejects.toThrow('wrong')
  expect([both.state?.key?.hasKey, both.backing?.state?.key?.hasKey]).toEqual([false, false])
  await setEncryptionKey(both, right)
  expect([both.state?.key?.hasKey, both.backing?.state?.key?.hasKey]).toEqual([true, true])
  await layer.unref(both)
})

test('row 102: not encrypted is EINVAL, a driver that takes no key ENOMEDIUM; a wrong key takes the right one away', async () => {
  const { layer, encrypted } = await setup()
  const plain = await layer.open('/a', { driver: 'raw' })
  const sealed = await layer.open('/a', { driver: 'sealed', backing: null, 'force-share': true })
  expect((await failure(() => setEncryptionKey(plain, right))).code).toBe('EINVAL')
  expect((await failure(() => setEncryptionKey(sealed, right))).code).toBe('ENOMEDIUM')
  const own = await encrypted()
  await setEncryptionKey(own, right)
  await expect(setEncryptionKey(own, wrong)).rejects.toThrow()
  expect(isKeyRequired(own)).toBe(true)
  for (const node of [own, sealed, plain]) {
    await layer.unref(node)
  }
})

test('row 102: devices hear of the medium when the first key fits', async () => {
  const { layer, encrypted } = await setup()
  const node = await encrypted()
  const device = new Backend(layer, { name: 'd0', perm: Perm.consistentRead })
  await device.insert(node)
  const loads: boolean[] = []
  device.device.attach({ id: '', ops: { changeMedia: (load) => loads.push(load) } })
  await expect(setEncryptionKey(node, wrong)).rejects.toThrow()
  expect(loads).toEqual([])
  await setEncryptionKey(node, right)
  await setEncryptionKey(node, right)
  expect(loads).toEqual([true])
  await device.close()
  await layer.unref(node)
})

test('row 103: texts and classes of adding a key', async () => {
  const { layer, encrypted, over } = await setup()
  const plain = await layer.open('/a', { driver: 'raw', 'node-name': 'p' })
  await addEncryptionKey(plain, undefined)
  expect(await failure(() => addEncryptionKey(plain, right))).toEqual({
    code: 'EINVAL',
    message: "Node 'p' is not encrypted",
  })
  const own = await encrypted()
  const sealed = await layer.open('/a', { driver: 'sealed', backing: null, 'force-share': true })
  expect((await failure(() => addEncryptionKey(sealed, right))).message).toBe('Password incorrect')
  const classOf = async (run: Promise<void>) => {
    const error: unknown = await run.catch((reason: unknown) => reason)
    return isBlockError(error) ? [error.errorClass, error.message] : error
  }
  expect(await classOf(addEncryptionKey(own, undefined))).toEqual([
    'DeviceEncrypted',
    "'v' (/c) is encrypted",
  ])
  await addEncryptionKey(own, right)
  await addEncryptionKey(own, undefined)
  const top = await over('overlay')
  const device = new Backend(layer, { name: 'd0', perm: Perm.consistentRead })
  await device.insert(top)
  // The name is the backing file's if that is the encrypted one, and the device's for the node's.
  expect(await classOf(addEncryptionKey(top, undefined))).toEqual([
    'DeviceEncrypted',
    "'d0' (/b) is encrypted",
  ])
  await addEncryptionKey(top, right)
  await addEncryptionKey(top, undefined)
  expect(await classOf(addEncryptionKey(plain, right))).toEqual(['GenericError', "Node 'p' is not encrypted"])
  await device.close()
  for (const node of [top, sealed, own, plain]) {
    await layer.unref(node)
  }
})

const folder = mkdtempSync(join(tmpdir(), 'blockgraph-keys-'))

afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

test('row 102: an AES image that QEMU made is read once it has its key', async () => {
  const path = join(folder, 'aes.qcow2')
  const secret = ['--object', 'secret,id=s,data=swordfish']
  const image = `driver=qcow2,encrypt.key-secret=s,file.driver=file,file.filename=${path}`
  const options = 'encrypt.format=aes,encrypt.key-secret=s'
  execFileSync('qemu-img', ['create', '-q', ...secret, '-f', 'qcow2', '-o', options, path, '1M'])
  execFileSync('qemu-io', [...secret, '--image-opts', image, '-c', 'write -P 7 64k 64k'], { stdio: 'pipe' })
  const layer = createBlockLayer({ host: createNodeHost(), drivers: allDrivers })
  // Without a secret an encrypted image can only be looked at.
  const node = await layer.open(path, { driver: 'qcow2', 'node-name': 'aes' }, { noIo: true })
  expect([isEncrypted(node), isKeyRequired(node)]).toEqual([true, true])
  expect((await failure(() => addEncryptionKey(node, undefined))).message).toBe(
    `'aes' (${path}) is encrypted`,
  )
  const device = new Backend(layer, { name: 'd0', perm: 0 })
  await device.insert(node)
  const loads: boolean[] = []
  device.device.attach({ id: '', ops: { changeMedia: (load) => loads.push(load) } })
  const key = bytes('swordfish')
  await addEncryptionKey(node, key)
  expect([isKeyRequired(node), loads]).toEqual([false, [true]])
  const buffer = new Uint8Array(65536)
  await node.read(65536, 65536, buffer, 0, 0)
  expect(buffer.every((byte) => byte === 7)).toBe(true)
  await addEncryptionKey(node, bytes('another'))
  await node.read(65536, 65536, buffer, 0, 0)
  expect(buffer.some((byte) => byte !== 7)).toBe(true)
  await device.close()
  await layer.unref(node)
})
