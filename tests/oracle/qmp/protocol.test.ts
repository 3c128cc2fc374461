import { test } from 'vitest'
import { none, same } from './same.js'
import { call, type Step } from './transcript.js'

test('negotiation', async () => {
  await same(
    'negotiation',
    none,
    [
      call('query-version'),
      '[]',
      call('nope'),
      call('qmp_capabilities', { enable: ['foo'] }),
      call('qmp_capabilities', { enable: 'oob' }),
      call('qmp_capabilities', { enable: ['oob'] }, 'x'),
      call('qmp_capabilities'),
      { 'exec-oob': 'query-version', id: 4 },
      { 'exec-oob': 'nope' },
      { 'exec-oob': 'query-version', execute: 'query-version' },
      { 'exec-oob': 7 },
      { 'exec-oob': 'qmp_capabilities' },
    ],
    false,
  )
})

test('the form of requests', async () => {
  await same(
    'requests',
    none,
    [
      call('query-version', undefined, { a: [1, null, true] }),
      '{"execute": "query-version", "id": {"a": [1.0, 1e3, 0.1, -0.0, 1e-7, 1e22, 18446744073709551615, -9223372036854775808]}}',
      '{"execute": "query-version", "id": [123456789012345678901234567890, 9007199254740993, "\\u00e9\\u0001\\ud83d\\ude00\\u007f"]}',
      '{"id": 1, "execute": "nope"}',
      '7 ',
      '"a"',
      'null ',
      '{}',
      '{"execute": 7, "id": null}',
      '{"execute": "query-version", "arguments": 7, "id": ""}',
      '{"execute": "query-version", "arguments": null}',
      '{"execute": "query-version", "arguments": {"a": 1}}',
      '{"execute": "query-version", "foo": 1}',
      '{"execute": "query-version", "foo": 1, "bar": 2, "id": 5}',
      '{"exec-oob": "query-version", "id": 1}',
      '{"arguments": {}}',
      "{'execute': 'query-version'}",
      // Commands that only a machine has.
      call('block-latency-histogram-set'),
      call('query-name'),
    ],
    true,
    [18, 19],
  )
})

test('text that is no JSON', async () => {
  const bytes = (...parts: (string | number)[]): Uint8Array =>
    new Uint8Array(
      parts.flatMap((part) => (typeof part === 'number' ? [part] : [...new TextEncoder().encode(part)])),
    )
  const works = call('query-version')
  await same('json', none, [
    { raw: '{"execute": x1}\n', answers: 1 },
    works,
    { raw: '{"a":\x01}', answers: 2 },
    works,
    '}',
    '{]',
    '{"a" 1}',
    '{"a":1,}',
    '{1:2}',
    '[1,]',
    '{,}',
    '[}',
    '{"a":1 "b":2}',
    '["a" "b"]',
    'nul ',
    'truefalse ',
    { raw: '\x01', answers: 1 },
    works,
    { raw: bytes('{"a":"', 0xff, '"}'), answers: 2 },
    works,
    { raw: bytes('{"a', 0xff), answers: 1 },
    { raw: '\n', answers: 0 },
    works,
    { raw: bytes('{"a":"', 0xc3, 0x28, '"}'), answers: 1 },
    '{"a":"\\x"}',
    '{"a":"\\ud800"}',
    '{"a":"\\u12"}',
    '{"a":1,"a":2}',
    { raw: '['.repeat(1030), answers: 1 },
    { raw: ']'.repeat(6), answers: 1 },
    works,
    { raw: '{"a":01}\n', answers: 2 },
    works,
    { raw: '{"a": 1.}\n', answers: 1 },
    works,
    { raw: '{"a": 1.5e}\n', answers: 1 },
    works,
    { raw: '{"a": -x}\n', answers: 1 },
    works,
    { raw: '#a b{"execute": "query-version"}', answers: 2 },
    { raw: '%p\n', answers: 1 },
    works,
    { raw: bytes('{"a"', 0xff), answers: 1 },
    works,
    { raw: '{"execute": "query-version"} {"execute": "query-version", "id": 2}[]', answers: 3 },
    { raw: '{"execute": "query-ver', answers: 0 },
    { raw: 'sion"}', answers: 1 },
  ])
})

test('arguments that do not fit the schema', async () => {
  const add = (args: object): Step => call('blockdev-add', args)
  await same('arguments', none, [
    add({}),
    add({ driver: 'foo' }),
    add({ driver: 1 }),
    add({ driver: null }),
    add({ driver: 'qcow2' }),
    add({ driver: 'qcow2', file: 1 }),
    add({ driver: 'qcow2', file: [] }),
    add({ driver: 'qcow2', file: {} }),
    add({ driver: 'qcow2', file: { driver: 'x' } }),
    add({ driver: 'qcow2', file: { driver: 'file', filename: 'x', y: 1 } }),
    '{"execute": "blockdev-add", "arguments": {"driver": "null-co", "size": 1.0, "node-name": "a"}}',
    add({ driver: 'null-co', size: '1', 'node-name': 'a' }),
    '{"execute": "blockdev-add", "arguments": {"driver": "null-co", "size": 99999999999999999999, "node-name": "a"}}',
    '{"execute": "blockdev-add", "arguments": {"driver": "null-co", "size": 9223372036854775808, "node-name": "a"}}',
    add({ driver: 'null-co', size: 1024 }),
    add({ driver: 'null-co', 'node-name': 'a', 'read-only': 1 }),
    add({ driver: 'null-co', 'node-name': 'a', cache: 1 }),
    add({ driver: 'null-co', 'node-name': 'a', cache: { direct: 'on' } }),
    add({ driver: 'null-co', 'node-name': 'a', discard: 'x' }),
    add({ driver: 'quorum', children: [1], 'vote-threshold': 1, 'node-name': 'a' }),
    add({ driver: 'quorum', children: 1, 'vote-threshold': 1, 'node-name': 'a' }),
    add({
      driver: 'quorum',
      children: [{ driver: 'null-co', zz: 1 }],
      'vote-threshold': 1,
      'node-name': 'a',
    }),
    add({ driver: 'quorum', children: [{ driver: 'null-co' }, { driver: 'file' }], 'vote-threshold': 1 }),
    add({ driver: 'nbd', 'node-name': 'a', server: { type: 'inet', host: 'x' } }),
    add({ driver: 'nbd', 'node-name': 'a', server: { type: 'foo', host: 'x' } }),
    add({ driver: 'nbd', 'node-name': 'a', server: { host: 'x' } }),
    add({ driver: 'nbd', 'node-name': 'a', server: { type: 'unix', path: '/x' }, 'open-timeout': -1 }),
    add({ driver: 'qcow2', 'node-name': 'a', file: 'x', 'overlap-check': 7 }),
    add({ driver: 'qcow2', 'node-name': 'a', file: 'x', 'overlap-check': 'q' }),
    add({ driver: 'qcow2', 'node-name': 'a', file: 'x', 'overlap-check': { template: 'q' } }),
    add({ driver: 'qcow2', 'node-name': 'a', file: 'x', encrypt: { format: 'luks', x: 1 } }),
    add({ driver: 'qcow2', 'node-name': 'a', file: 'x', backing: 7 }),
    call('block-dirty-bitmap-add', { node: 'a', name: 'b', granularity: -1 }),
    call('block-dirty-bitmap-add', { node: 'a', name: 'b', granularity: 4294967296 }),
    call('block-dirty-bitmap-merge', { node: 'a', target: 'b', bitmaps: [7] }),
    call('block-dirty-bitmap-merge', { node: 'a', target: 'b', bitmaps: ['x', { node: 'a' }] }),
    call('transaction', { actions: [{ type: 'abort' }] }),
    call('transaction', { actions: [{ type: 'abort', data: { x: 1 } }] }),
    call('transaction', {
      actions: [
        { type: 'abort', data: {} },
        { type: 'q', data: {} },
      ],
    }),
    call('transaction', { actions: [{ type: 'abort', data: {} }], properties: { 'completion-mode': 'x' } }),
    call('transaction', { actions: [{ type: 'block-dirty-bitmap-add', data: { node: 'a' } }] }),
    call('x-blockdev-set-iothread', { 'node-name': 'a', iothread: 5 }),
    call('block-set-write-threshold', { 'node-name': 'a', 'write-threshold': 'x' }),
    call('qom-get', { path: '/' }),
    call('quit', { now: true }),
  ])
})
