import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type BlockLayer, createBlockLayer } from '../../graph/index.js'
import { parseObject } from '../../options/index.js'
import { MemoryHost } from '../../testing/index.js'
import { defineObject } from '../user-objects.js'
import { authorizeBy, isGlobMatch } from './index.js'

describe('patterns', () => {
  test.each([
    ['', '', true],
    ['', 'a', false],
    ['*', '', true],
    ['**', 'abc', true],
    ['a*c', 'abc', true],
    ['a*c', 'abcd', false],
    ['a?c', 'abc', true],
    ['a?c', 'ac', false],
    ['?', 'ü', true],
    ['*.example.com', 'a.b.example.com', true],
    ['*ab*ab', 'abxabab', true],
    ['*ab*abc', 'abxabab', false],
    ['[a]', 'a', false],
    ['\\*', 'x', false],
  ])('%s fits %s: %s', (pattern, text, fits) => {
    expect(isGlobMatch(pattern, text)).toBe(fits)
  })

  test('fit what the same regular expression fits', () => {
    const words = fc.string({ unit: fc.constantFrom('a', 'b', '*', '?') })
    const texts = fc.string({ unit: fc.constantFrom('a', 'b') })
    fc.assert(
      fc.property(words, texts, (pattern, text) => {
        const expression = pattern.replaceAll('*', '.*').replaceAll('?', '.')
        expect(isGlobMatch(pattern, text)).toBe(new RegExp(`^${expression}$`).test(text))
      }),
    )
  })

  test('take no longer for it', () => {
    // Exponential for who tries all ways: this would not end.
    expect(isGlobMatch(`${'*a'.repeat(50)}b`, 'a'.repeat(5000))).toBe(false)
  })
})

describe('objects', () => {
  let host: MemoryHost
  let layer: BlockLayer

  beforeEach(() => {
    host = new MemoryHost()
    layer = createBlockLayer({ host, drivers: [] })
  })

  afterEach(async () => {
    await layer.closeAll()
  })

  async function add(text: string): Promise<void> {
    const request = parseObject(text)
    if (request.kind !== 'help') {
      await defineObject(layer, request)
    }
  }

  function verdict(peer: string, id = 'a'): string {
    try {
      authorizeBy(layer, id)(peer)
      return 'allowed'
    } catch (error) {
      return (error as Error).message
    }
  }

  const denied = (peer: string): string => `TLS x509 authz check for ${peer} is denied`

  test('one identity', async () => {
    await add('authz-simple,id=a,identity=CN=x')
    expect(verdict('CN=x')).toBe('allowed')
    expect(verdict('CN=X')).toBe(denied('CN=X'))
  })

  test('a list: the first rule that fits decides', async () => {
    const rules = [
      'rules.0.match=CN=bad.x,rules.0.policy=deny',
      'rules.1.match=CN=*.x,rules.1.policy=allow,rules.1.format=glob',
      'rules.2.match=CN=*,rules.2.policy=allow,rules.2.format=exact',
    ]
    await add(`authz-list,id=a,${rules.join(',')}`)
    expect(verdict('CN=good.x')).toBe('allowed')
    expect(verdict('CN=bad.x')).toBe(denied('CN=bad.x'))
    expect(verdict('CN=y')).toBe(denied('CN=y'))
    expect(verdict('CN=*')).toBe('allowed')
    await add(
      '{"qom-type":"authz-list","id":"b","policy":"allow","rules":[{"match":"CN=y","policy":"deny"}]}',
    )
    expect(verdict('CN=x', 'b')).toBe('allowed')
    expect(verdict('CN=y', 'b')).toBe(denied('CN=y'))
  })

  test('an object that is missing, or another one', async () => {
    expect(verdict('CN=x')).toBe('Cannot find QAuthZ object ID a')
    await add('secret,id=a,data=x')
    expect(verdict('CN=x')).toBe("Object 'a' is not a QAuthZ subclass")
  })

  test('a file, whose changes count', async () => {
    const write = (text: string): void => void host.put('list', new TextEncoder().encode(text))
    await expect(add('authz-list-file,id=a,filename=list')).rejects.toThrow(
      "Unable to read 'list': No such file or directory",
    )
    write('[]')
    await expect(add('authz-list-file,id=a,filename=list')).rejects.toThrow(
      "File 'list' must contain a JSON object",
    )
    write('{"rules": [{"match": "CN=x"}]}')
    await expect(add('authz-list-file,id=a,filename=list')).rejects.toThrow(
      "Parameter 'rules[0].policy' is missing",
    )
    write('{"rules": [{"match": "CN=x", "policy": "allow"}]}')
    await add('authz-list-file,id=a,filename=list')
    await add('authz-listfile,id=b,filename=list,refresh=off')
    expect(verdict('CN=x')).toBe('allowed')
    write('{"rules": [{"match": "CN=y", "policy": "allow"}]}')
    expect(verdict('CN=y')).toBe('allowed')
    expect(verdict('CN=x')).toBe(denied('CN=x'))
    expect(verdict('CN=x', 'b')).toBe('allowed')
    expect(host.warnings).toEqual([])
    write('oops')
    expect(verdict('CN=y')).toBe(denied('CN=y'))
    expect(host.warnings.length).toBe(1)
  })
})
