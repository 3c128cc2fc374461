import { expect, test } from 'vitest'
import { zstdFrame, zstdFrameLength } from './zstd-frame.js'

const magic = [0x28, 0xb5, 0x2f, 0xfd]

/** Header of a block: its size, its type (0 raw, 1 run-length, 2 compressed) and whether it is the last. */
function block(size: number, type: number, last: boolean): number[] {
  const header = (size << 3) | (type << 1) | (last ? 1 : 0)
  return [header & 0xff, (header >> 8) & 0xff, header >> 16]
}

test('frames are as long as their blocks say, whatever follows', () => {
  const single = [...magic, 0x20, 3, ...block(3, 0, true), 7, 8, 9]
  expect(zstdFrame(Uint8Array.from([...single, 0xff, 0xff]))).toEqual({ length: 12, contentSize: 3 })
  const checked = [...magic, 0x24, 3, ...block(3, 0, true), 7, 8, 9, 1, 2, 3, 4]
  expect(zstdFrameLength(Uint8Array.from(checked))).toBe(16)
  const windowed = [...magic, 0x00, 0x58, ...block(300, 1, false), 7, ...block(0, 0, true)]
  expect(zstdFrame(Uint8Array.from(windowed))).toEqual({ length: windowed.length, contentSize: undefined })
  const dictionary = [...magic, 0x23, 1, 0, 0, 0, 2, ...block(2, 0, true), 7, 8]
  expect(zstdFrame(Uint8Array.from(dictionary))).toEqual({ length: dictionary.length, contentSize: 2 })
})

test('content sizes of every width', () => {
  const end = block(0, 0, true)
  expect(zstdFrame(Uint8Array.from([...magic, 0x60, 1, 0, ...end]))?.contentSize).toBe(257)
  expect(zstdFrame(Uint8Array.from([...magic, 0xa0, 1, 0, 0, 0x80, ...end]))?.contentSize).toBe(0x80000001)
  const long = [...magic, 0xe0, 0, 0, 0, 0, 1, 0, 0, 0, ...end]
  expect(zstdFrame(Uint8Array.from(long))?.contentSize).toBe(2 ** 32)
})

test('skippable frames hold nothing', () => {
  const skippable = Uint8Array.from([0x5a, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 1, 2, 3])
  expect(zstdFrame(skippable)).toEqual({ length: 10, contentSize: 0 })
  expect(zstdFrameLength(skippable.subarray(0, 9))).toBe(0)
})

test('what is cut off or malformed is no frame', () => {
  const frame = Uint8Array.from([...magic, 0x24, 3, ...block(3, 0, true), 7, 8, 9, 1, 2, 3, 4])
  for (let length = 0; length < frame.length; length++) {
    expect(zstdFrameLength(frame.subarray(0, length))).toBe(0)
  }
  expect(zstdFrameLength(Uint8Array.from([...magic, 0x20, 3, ...block(3, 3, true), 7, 8, 9]))).toBe(0)
  expect(zstdFrameLength(new Uint8Array(100))).toBe(0)
})
