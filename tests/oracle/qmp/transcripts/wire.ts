import { none, nullNode } from '../same.js'
import { call, type Step } from '../transcript.js'
import type { Transcript } from './transcript-type.js'

const ids = [
  ...['null', 'true', 'false', '0', '-1', '-0', '1.5', '1e3', '1E-3', '0.1', '123456789.125'],
  ...['9223372036854775807', '9223372036854775808', '-9223372036854775808', '-9223372036854775809'],
  ...['18446744073709551615', '18446744073709551616', '1e308', '5e-324', '[]', '{}', '[[[]]]'],
  ...['""', '"é"', '"\\u00e9"', '"日本"', '"\\ud83d\\ude00"', '"\\uffff"', '"\\b\\f\\n\\r\\t\\\\\\/\\""'],
  ...['"\\u007f"', '"\\u0080"', '"\\ue000"', "'single'", '"a\\\'b"', '{"b": 1, "a": 2, "c": {"d": [1, {}]}}'],
]

const request = (text: string): Step => `{"execute": "query-jobs"${text}}`

/** A request for the text of JSON, as it stands. */
const threshold = (number: string): Step =>
  `{"execute": "block-set-write-threshold", "arguments": {"node-name": "n", "write-threshold": ${number}}}`

const resize = (number: string): Step =>
  `{"execute": "block_resize", "arguments": {"node-name": "n", "size": ${number}}}`

const named = (node: string): Step => call('blockdev-add', { driver: 'null-co', 'node-name': node })

export const wireTranscripts: readonly Transcript[] = [
  {
    name: 'ids',
    prepare: none,
    steps: [
      ...ids.map((id) => request(`, "id": ${id}`)),
      ...['null', '"é"', '[1, "x"]'].map((id): Step => `{"execute": "nope", "id": ${id}}`),
      ...['1', '"é"'].map((id): Step => `{"execute": "blockdev-del", "arguments": {}, "id": ${id}}`),
      ...['{"id": 1}', '{"id": [1.0], "arguments": {}}', '{"execute": null, "id": "x"}'],
    ],
  },
  {
    name: 'duplicates',
    prepare: none,
    steps: [
      '{"execute": "query-jobs", "execute": "query-version"}',
      '{"execute": "query-jobs", "id": 1, "id": 2}',
      '{"execute": "blockdev-del", "arguments": {"node-name": "a", "node-name": "b"}}',
      '{"execute": "query-jobs", "id": {"a": 1, "a": 1}}',
      '{"execute": "query-jobs", "arguments": {}, "arguments": {}}',
      '{"execute": "query-jobs", "\\u0069d": 1}',
      '{"": 1}',
      '{"execute": ""}',
      '{"execute": "Query-Jobs"}',
      '{"execute": "query-jobs "}',
      '{"execute": "é"}',
      '{"execute": "\\u0001"}',
      '{"execute": "query-jobs", "control": {}}',
      '{"execute": "query-jobs", "timestamp": 1, "id": "t"}',
      '{"execute": "query-jobs", "arguments": []}',
      '{"execute": "query-jobs", "arguments": "{}"}',
      '{"execute": ["query-jobs"]}',
      '{"execute": true}',
      '[{"execute": "query-jobs"}]',
      '  {  "execute"  :\t"query-jobs"\r\n}',
    ],
  },
  {
    name: 'numbers',
    prepare: none,
    steps: [
      nullNode('n'),
      ...['0', '-1', '1.0', '1e2', '9223372036854775807', '18446744073709551616'].map(threshold),
      ...['-9223372036854775809', '"1"', 'null', '100'].map(threshold),
      call('query-named-block-nodes', { flat: true }),
      threshold('18446744073709551615'),
      call('query-named-block-nodes', { flat: true }),
      threshold('9223372036854775808'),
      call('query-named-block-nodes', { flat: true }),
      ...['-1', '-9223372036854775808', '9223372036854775808', '1.5', '1e3', '[]'].map(resize),
    ],
  },
  {
    name: 'names',
    prepare: none,
    steps: [
      ...['', 'é', '日本', 'a b', '-a', '_a', 'a-b_c.d', '1a', '#a', 'a/b', 'a\n', '😀', 'A'.repeat(31)].map(
        named,
      ),
      call('blockdev-del', { 'node-name': 'é' }),
      call('blockdev-del', { 'node-name': '' }),
      call('blockdev-del', { 'node-name': '😀\u0001"\\' }),
      ...['é', '日本 😀', 'a b', '\u0001', 'x'.repeat(1023), 'y'.repeat(1024)].map((name) =>
        call('block-dirty-bitmap-add', { node: 'a-b_c.d', name }),
      ),
      call('query-named-block-nodes', { flat: true }),
      call('block-dirty-bitmap-remove', { node: 'a-b_c.d', name: '日本 😀' }),
      call('job-pause', { id: 'é' }),
      call('query-block-jobs'),
    ],
  },
  {
    name: 'out-of-band',
    prepare: none,
    negotiate: false,
    steps: [
      { 'exec-oob': 'query-jobs' },
      call('qmp_capabilities', { enable: ['oob', 'oob'] }),
      { 'exec-oob': 'query-jobs', id: 'x' },
      { 'exec-oob': 'blockdev-del', arguments: {}, id: [1] },
      { 'exec-oob': 'nope', id: null },
      { 'exec-oob': {}, id: 2 },
      { 'exec-oob': 'query-jobs', arguments: 1, id: 3 },
      { 'exec-oob': 'quit', id: 4 },
      { 'exec-oob': 'query-jobs', execute: 'query-jobs', id: 5 },
      call('qmp_capabilities', { enable: [] }),
      call('query-jobs', {}, 6),
    ],
  },
]
