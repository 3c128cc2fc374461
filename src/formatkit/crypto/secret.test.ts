import { inspect } from 'node:util'
import { expect, test } from 'vitest'
import { createBlockLayer } from '../../graph/index.js'
import { nodeCiphers } from '../../platform/node/ciphers.js'
import { MemoryHost } from '../../testing/index.js'
import { addSecret, lookupPassword, lookupSecret } from './secret.js'

function setup() {
  const host = new MemoryHost({ ciphers: nodeCiphers })
  return { host, layer: createBlockLayer({ host, drivers: [] }) }
}

const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes)

test('raw, base64 and from a file', () => {
  const { host, layer } = setup()
  host.put('/password', new TextEncoder().encode('from a file\n'))
  addSecret(layer, { id: 'raw', format: 'raw', data: 'swordfish' })
  addSecret(layer, { id: 'base64', format: 'base64', data: 'c3dvcmRmaXNo' })
  addSecret(layer, { id: 'file', format: 'raw', file: '/password' })
  expect(['raw', 'base64', 'file'].map((id) => text(lookupSecret(layer, id)))).toEqual([
    'swordfish',
    'swordfish',
    'from a file\n',
  ])
})

test('show nowhere, and are gone when the layer closes', async () => {
  const { layer } = setup()
  const secret = addSecret(layer, { id: 's', format: 'raw', data: 'swordfish' })
  const bytes = [...new TextEncoder().encode('swordfish')]
  for (const shown of [
    inspect(secret, { depth: 9, showHidden: true }),
    JSON.stringify(secret),
    String(secret),
  ]) {
    expect(shown).not.toContain('swordfish')
    expect(shown).not.toContain(bytes.slice(0, 3).join(', '))
  }
  const copy = lookupSecret(layer, 's')
  copy.fill(0)
  expect(text(lookupSecret(layer, 's'))).toBe('swordfish')
  await layer.closeAll()
  expect(secret.read()).toBeUndefined()
  expect(() => lookupSecret(layer, 's')).toThrow("No secret with id 's'")
})

test('what is no password', () => {
  const { layer } = setup()
  addSecret(layer, { id: 'nul', format: 'base64', data: 'AAE=' })
  addSecret(layer, { id: 'latin', format: 'base64', data: '/w==' })
  layer.objects.add({ type: 'throttle-group', id: 'group' })
  expect(() => lookupPassword(layer, 'nul')).toThrow('Data from secret nul is not valid UTF-8')
  expect(() => lookupPassword(layer, 'latin')).toThrow('Data from secret latin is not valid UTF-8')
  expect(() => lookupSecret(layer, 'group')).toThrow("Object with id 'group' is not a secret")
  expect(() => addSecret(layer, { id: 'none', format: 'raw' })).toThrow(
    "Either 'file' or 'data' must be provided",
  )
  expect(layer.objects.find('none')).toBeUndefined()
})
