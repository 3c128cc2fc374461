import { expect, test } from 'vitest'
import { inQemuOrder } from './key-order.js'

// Orders as qemu-img 7.2 prints them.
test('members come in the order of QEMU', () => {
  const info = {
    filename: '',
    format: '',
    'virtual-size': 0,
    'dirty-flag': false,
    'actual-size': 0,
    'backing-filename-format': '',
    'backing-filename': '',
    'full-backing-filename': '',
    'cluster-size': 0,
    snapshots: [],
    'format-specific': {},
  }
  expect(Object.keys(inQemuOrder(info))).toEqual([
    'backing-filename-format',
    'snapshots',
    'virtual-size',
    'filename',
    'cluster-size',
    'format',
    'actual-size',
    'format-specific',
    'full-backing-filename',
    'backing-filename',
    'dirty-flag',
  ])
})

test('nested objects and lists are ordered too, and what is undefined goes', () => {
  const ordered = inQemuOrder({ list: [{ required: 1, bitmaps: 0, 'fully-allocated': 2, gone: undefined }] })
  expect(JSON.stringify(ordered)).toBe('{"list":[{"bitmaps":0,"required":1,"fully-allocated":2}]}')
})
