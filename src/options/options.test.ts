import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, describe, expect, test } from 'vitest'
import { isBlockError } from '../errors/index.js'
import {
  appendOptionText,
  decodeBase64,
  defineOptions,
  formatOptionHelp,
  hasHelpOption,
  OptionDict,
  parseImageOptions,
  parseObject,
  parseOptionText,
  parseSizeExact,
  sizeWarning,
  takeOptions,
  typeOption,
} from './index.js'

const folder = mkdtempSync(join(tmpdir(), 'blockgraph-options-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))
writeFileSync(join(folder, 'r'), new Uint8Array(1024))

function qemu(...args: string[]) {
  const { stdout, stderr, status } = spawnSync('qemu-img', args, { cwd: folder, encoding: 'utf8' })
  return { stdout, stderr, status }
}

/** The error as a tool prints it. */
function errorText(body: () => unknown, prefix = ''): string {
  try {
    body()
    return ''
  } catch (error) {
    if (!isBlockError(error)) {
      throw error
    }
    return `qemu-img: ${prefix}${error.message}\n${error.hint === undefined ? '' : `${error.hint}\n`}`
  }
}

describe('sizes', () => {
  const compare = (text: string) => {
    // A cluster size that is no good shows the value in the banner before it is refused.
    const { stdout, stderr } = qemu(
      'create',
      '-f',
      'qcow2',
      '-o',
      `cluster_size=${text.replaceAll(',', ',,')}`,
      'x',
      '1k',
    )
    const shown = /cluster_size=(-?\d+)/.exec(stdout)?.[1]
    const size = parseSizeExact(text)
    const ours = typeof size === 'bigint' ? String(BigInt.asIntN(64, size)) : undefined
    expect({ text, size: ours }).toEqual({ text, size: shown })
    const warning = sizeWarning(text)
    const lines = warning === undefined ? '' : `qemu-img: warning: ${warning}\n`
    const error = errorText(() => typeOption('cluster_size', { type: 'size' }, text), 'x: ')
    expect(stderr.startsWith(lines + error), stderr).toBe(true)
    if (warning === undefined) {
      expect(stderr).not.toContain('warning')
    }
  }

  for (const text of [
    '',
    '0',
    '1',
    '513',
    ' 512',
    '512 ',
    '+512',
    '-512',
    '- 5',
    '0x200',
    '0X200',
    '0x',
    '0xg',
    '0x200k',
    '0x2.8',
    '0x1p3',
    '010',
    '08',
    '1e3',
    '1e',
    '1E',
    '1.5E',
    '1.5',
    '1.0',
    '1.',
    '1.k',
    '1.5k',
    '.5k',
    '1.5kk',
    '1kB',
    '1KiB',
    '1b',
    '1B',
    '1.5b',
    '1.0b',
    '0.0000001k',
    '0.9999k',
    '1.0e3k',
    '1.5e+3k',
    '1.5e+k',
    '1.5ek',
    'nan',
    'inf',
    '1,5k',
    '1 k',
    'k',
    '0b1',
    '9223372036854775807',
    '9223372036854775808',
    '18446744073709551615',
    '18446744073709551616',
    '15E',
    '16E',
    '16Ex',
    '15.99999E',
    '15.9999999999999999999E',
    '99999999999999999999',
    '99999999999999999999k',
    '99999999999999999999.5',
    '0xffffffffffffffff',
    '0x10000000000000000',
    '0x10000000000000000k',
    '0x7fffffffffffffffk',
    '0x7fffffffffffffffkx',
    '0x10E',
    '0x10b',
    '1x',
    '\t5',
    '5\n',
    '٣',
    '7.9E',
    '7.99999999999999999999E',
    '1.00000000000000001k',
    '0.1k',
    '2.3M',
    '1.999k',
    '00x10',
    '0x0',
    '-0',
    '+0x10',
    '0.k',
    '1..5k',
    '1.5.5k',
    '++1',
    '+ 1',
    '0.5m',
    '0.4999999999k',
    '.',
    '1.nank',
    '0.00048828125k',
    '0.000488281249k',
    '1p',
    '3.3333333333333333333P',
  ]) {
    test(JSON.stringify(text), () => compare(text))
  }

  test('random ones', () => {
    const part = fc.constantFrom('0', '1', '7', '9', '00', '123', '.', 'k', 'E', 'e', 'b', '0x', '+', ' ')
    fc.assert(
      fc.property(fc.array(part, { maxLength: 5 }), (parts) => compare(parts.join(''))),
      { numRuns: 150 },
    )
  })
})

describe('numbers', () => {
  for (const text of [
    '',
    '16',
    '-5',
    '-1',
    'a',
    '010',
    '08',
    '0',
    '0x10',
    '0x',
    ' 16',
    '16 ',
    '16k',
    '18446744073709551615',
    '99999999999999999999',
    '99999999999999999999x',
    '-99999999999999999999',
    '+16',
    '16.0',
    '1e1',
    '--1',
    '- 1',
  ]) {
    test(JSON.stringify(text), () => {
      const { stdout, stderr } = qemu('create', '-f', 'qcow2', '-o', `refcount_bits=${text}`, 'x', '1k')
      const shown = /refcount_bits=(.*)$/m.exec(stdout)?.[1]
      const error = errorText(() => typeOption('refcount_bits', { type: 'number' }, text), 'x: ')
      if (error === '') {
        const value = BigInt(typeOption('refcount_bits', { type: 'number' }, text) as number)
        expect(String(BigInt.asIntN(64, value))).toBe(shown)
      } else {
        expect(stderr).toBe(error)
      }
    })
  }
})

describe('booleans', () => {
  for (const text of ['on', 'off', 'yes', 'no', 'true', 'false', 'y', 'n', '', 'On', '1', '0', 'maybe']) {
    test(JSON.stringify(text), () => {
      const { stdout, stderr } = qemu('create', '-f', 'qcow2', '-o', `extended_l2=${text}`, 'x', '1k')
      const error = errorText(() => typeOption('extended_l2', { type: 'bool' }, text), 'x: ')
      expect(stderr).toBe(error)
      expect(stdout !== '').toBe(error === '')
    })
  }
})

describe('option text', () => {
  test('pairs', () => {
    expect(parseOptionText('a=b,c=d,,e,f,nog,id=5,h=,=i,no,j=k=l')).toEqual([
      ['a', 'b'],
      ['c', 'd,e'],
      ['f', 'on'],
      ['g', 'off'],
      ['h', ''],
      ['', 'i'],
      ['', 'off'],
      ['j', 'k=l'],
    ])
    expect(parseOptionText('a=,,,b')).toEqual([
      ['a', ','],
      ['b', 'on'],
    ])
  })

  for (const text of [
    'help',
    '?',
    'size=1,help',
    'help,size=1',
    'size=1,?',
    'help=on',
    'size=help',
    'size=1,,help',
    'nohelp',
    'size=1,help2',
    'a,help,b',
  ]) {
    test(`help in ${text}`, () => {
      const { stdout } = qemu('create', '-o', text, 'x')
      expect(hasHelpOption(text)).toBe(stdout.startsWith('Supported options'))
    })
  }

  for (const text of ['', ',', ',,', 'a=1,', 'a=1,,', 'a=1,,,', ',a=1', 'a=1,b']) {
    test(`list ${text}`, () => {
      const { stderr } = qemu('create', '-o', 'size=1', '-o', text, 'y')
      const ours = errorText(() => appendOptionText('size=1', text))
      expect(stderr.includes('Invalid option list')).toBe(ours !== '')
      if (ours !== '') {
        expect(stderr).toBe(ours)
      }
    })
  }

  test('help lines', () => {
    const schema = defineOptions({
      size: { type: 'size', help: 'Virtual disk size' },
      preallocation: { type: 'enum', help: 'Preallocation mode (allowed values: off, falloc, full)' },
      nocow: { type: 'bool', help: 'Turn off copy-on-write (valid only on btrfs)' },
      extent_size_hint: { type: 'size', help: 'Extent size hint for the image file, 0 to disable' },
    })
    const { stdout } = qemu('create', '-f', 'raw', '-o', 'help', 'x')
    expect(['Supported options:', ...formatOptionHelp(schema), ''].join('\n')).toBe(stdout)
    expect(
      formatOptionHelp({ n: { type: 'number' }, 'encrypt.iter-time': { type: 'number', help: 'x' } }),
    ).toEqual(['  encrypt.iter-time=<num> - x', '  n=<num>'])
  })
})

describe('--image-opts', () => {
  for (const text of [
    '',
    'r',
    'driver=raw,file.filename=r',
    'driver=raw,file.filename=r,',
    'driver=raw,,x',
    'driver=raw,file.filename=r,bogus',
    'driver=raw,file.filename=r,nobogus',
    'driver=raw,file.filename=r,nodelay',
    'driver=raw,id=1',
    'driver=raw,id=x',
    'id=1,driver=raw',
    'driver=raw,help',
    'driver=raw,?',
    'driver=qcow2,driver=raw,file.filename=r',
    'driver=raw,id',
  ]) {
    test(JSON.stringify(text), () => {
      const { stderr } = qemu('info', '--image-opts', text)
      let expected = ''
      try {
        const { warnings, options } = parseImageOptions(text)
        expected = warnings.map((w) => `qemu-img: warning: ${w.text}\n${w.hint}\n`).join('')
        expect(options.size > 0 || text === '').toBe(true)
      } catch (error) {
        expected = errorText(() => {
          throw error
        })
      }
      expect(stderr.startsWith(expected), stderr).toBe(true)
      expect(stderr.split('warning:').length).toBe(expected.split('warning:').length)
    })
  }

  test('later options count', () => {
    expect([...parseImageOptions('a=1,b=2,a=3').options.entries()]).toEqual([
      ['b', '2'],
      ['a', '3'],
    ])
    expect([...parseImageOptions('n,a').options.entries()]).toEqual([
      ['file', 'n'],
      ['a', 'on'],
    ])
  })
})

describe('--object', () => {
  for (const text of [
    '',
    'secret',
    'secret,id=a,data=b',
    'secret,id=a,data=b,bogus=1',
    'secret,id=1,data=x',
    'secret,data=x',
    'nosuch,id=a',
    'qom-type=secret,id=a,data=b',
    'secret,id=a,data=b,format=foo',
    'secret,id=a,data',
    'secret,id=a,data=b,id=c',
    '{"qom-type":"secret","id":"a","data":"b"}',
    '{"qom-type":"secret"}',
    '{}',
    '{"qom-type":"secret",',
    'id=a',
    ',id=a',
    'secret,,id=a',
    'secret,id=a,data=b,loaded=on',
    'iothread,id=a',
    'secret,id=a,data=b,a.b=c',
    'secret,id.x=a',
    'secret,=x',
    'secret,id=a,data=b,nofoo',
    'secret,id=a,data=b,keyid.x=1',
    'secret,id=a,data=b,9=1',
    'secret,id=a,data=b,a..b=1',
    'secret,id=a,data=b,.a=1',
    'secret,id=a,data=b,a.=1',
    'secret,id=a,data.x=b',
    'secret,id=a,data=b,data.x=1',
    'secret,id=a,data.x=b,data=1',
    'secret,id=a,data.0=b',
    'secret,id=a,data.1=b',
    'secret,id=,data=x',
    'secret,id=a,data=b,,c',
    'help,secret',
    'id=a,secret',
    `secret,id=a,data=b,${'x'.repeat(128)}=1`,
    '{"qom-type":"secret","id":"a","data":1}',
    '{"qom-type":"secret","id":1,"data":"x"}',
    '{"qom-type":1,"id":"a"}',
    '{"qom-type":"secret","id":"a","data":"b","x":1}',
    '[]',
    ' {}',
    '{"qom-type":"help"}',
    'secret,id=a b,data=x',
    'secret,id=a,data=b,loaded=maybe',
    '{"qom-type":"secret","id":"a","data":"b","loaded":true}',
    '{"qom-type":"secret","id":"a","data":"b","loaded":"on"}',
    '{"qom-type":"tls-creds-x509","id":"a","verify-peer":3}',
    'authz-simple,id=a',
    'authz-simple,id=a,identity.x=1',
    'authz-simple,id=a,identity=x,foo=1',
    'authz-list,id=a,policy=maybe',
    'authz-list,id=a,rules=5',
    'authz-list,id=a,rules.0=3',
    'authz-list,id=a,rules.1.match=x',
    'authz-list,id=a,rules.0.match=x',
    'authz-list,id=a,rules.0.policy=deny',
    'authz-list,id=a,rules.0.match=x,rules.0.policy=never',
    'authz-list,id=a,rules.0.match=x,rules.0.policy=allow,rules.0.format=regex',
    'authz-list,id=a,rules.0.match=x,rules.0.policy=allow,rules.0.foo=1',
    '{"qom-type":"authz-list","id":"a","rules":{"match":"x","policy":"allow"}}',
    '{"qom-type":"authz-list","id":"a","rules":[3]}',
    '{"qom-type":"authz-list","id":"a","rules":[{"match":3,"policy":"allow"}]}',
    '{"qom-type":"authz-list","id":"a","rules":[{"match":"x"}]}',
    '{"qom-type":"authz-list","id":"a","rules":[{"match":"x","policy":"deny","y":1}]}',
    '{"qom-type":"authz-listfile","id":"a","filename":"f","refresh":"x"}',
    'authz-listfile,id=a,filename=f,refresh=maybe',
    'authz-listfile,id=a',
    'authz-pam,id=a',
    'authz-pam,id=a,service=x',
    'authz-simple,id=a b,identity=x',
  ]) {
    test(JSON.stringify(text), () => {
      const { stderr } = qemu('info', '--object', text, 'r')
      expect(errorText(() => parseObject(text))).toBe(stderr)
    })
  }

  test('help', () => {
    for (const type of [
      'authz-list',
      'authz-list-file',
      'authz-simple',
      'secret',
      'tls-creds-psk',
      'tls-creds-x509',
    ]) {
      const { stdout } = qemu('info', '--object', `${type},help`)
      const request = parseObject(`${type},help`)
      expect(request.kind === 'help' && `${request.lines.join('\n')}\n`).toBe(stdout)
    }
    expect(parseObject('?')).toEqual({
      kind: 'help',
      lines: [
        'List of user creatable objects:',
        '  authz-list',
        '  authz-list-file',
        '  authz-simple',
        '  secret',
        '  throttle-group',
        '  tls-creds-psk',
        '  tls-creds-x509',
      ],
    })
  })

  test('a secret', () => {
    expect(parseObject('secret,id=a,file=x,format=base64,keyid=k,iv=v')).toEqual({
      kind: 'secret',
      secret: { id: 'a', file: 'x', format: 'base64', keyId: 'k', iv: 'v' },
    })
    expect(decodeBase64('Zm9v\nYg==')).toEqual(new TextEncoder().encode('foob'))
    expect(() => decodeBase64('!')).toThrow('Base64 data contains invalid characters')
  })
})

test('taking options', () => {
  const schema = defineOptions({
    size: { type: 'size' },
    on: { type: 'bool' },
    n: { type: 'number' },
    s: { type: 'string' },
  })
  const dict = new OptionDict([
    ['size', '1k'],
    ['on', true],
    ['n', -3],
    ['s', 5],
    ['other', 1],
  ])
  expect(takeOptions(dict, schema)).toEqual({ size: 1024, on: true, n: -3, s: '5' })
  expect(dict.keys()).toEqual(['other'])
  expect(takeOptions(new OptionDict([['size', null]]), schema)).toEqual({})
  for (const bad of [-1, 1.5, true, 'x'] as const) {
    expect(() => typeOption('size', { type: 'size' }, bad)).toThrow("Parameter 'size' expects")
  }
})
