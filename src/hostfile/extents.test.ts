import { describe, expect, test } from 'vitest'
import type { HostFile } from '../host/index.js'
import type { ExtentSink, IoNode } from '../io/index.js'
import { FileExtents } from './extents.js'

/** A file that knows only where its data is: `[start, end)` pairs, and its size. */
class Sparse {
  calls = 0
  readonly data: [number, number][]
  readonly size: number

  constructor(size: number, data: [number, number][]) {
    this.size = size
    this.data = data
  }

  seekData(offset: number): number {
    this.calls++
    const region = this.data.find(([, end]) => end > offset)
    return region === undefined ? -1 : Math.max(offset, region[0])
  }

  seekHole(offset: number): number {
    this.calls++
    if (offset >= this.size) {
      return -1
    }
    const region = this.data.find(([start, end]) => start <= offset && offset < end)
    return region === undefined ? offset : region[1]
  }
}

function report(
  extents: FileExtents,
  file: object,
  offset: number,
  bytes: number,
  align = 1,
  most = 100,
): string[] {
  const seen: string[] = []
  const add = (text: string): boolean => {
    seen.push(text)
    return seen.length < most
  }
  const sink: ExtentSink = {
    data: (n, _node, at) => add(`data ${at}+${n}`),
    zero: (n, _node, at) => add(`zero ${at}+${n}`),
    unallocated: (n) => add(`unallocated ${n}`),
    encoded: (n) => add(`encoded ${n}`),
  }
  extents.report(file as HostFile, {} as IoNode, offset, bytes, align, sink)
  return seen
}

/** As {@link report}, but asks on where an answer ended early. */
function reportAll(extents: FileExtents, file: object, offset: number, end: number): string[] {
  const seen: string[] = []
  for (let at = offset; at < end; ) {
    for (const extent of report(extents, file, at, end - at)) {
      seen.push(extent)
      at += Number(extent.split('+')[1])
    }
  }
  return seen
}

describe('FileExtents', () => {
  test('reports data and holes in order, cut to the range', () => {
    const file = new Sparse(100_000, [
      [4096, 8192],
      [65536, 69632],
    ])
    expect(reportAll(new FileExtents(), file, 1000, 91_000)).toEqual([
      'zero 1000+3096',
      'data 4096+4096',
      'zero 8192+57344',
      'data 65536+4096',
      'zero 69632+21368',
    ])
    // One question a border.
    expect(file.calls).toBe(5)
  })

  test('data that was dug away behind a hole is no obstacle', () => {
    const file = new Sparse(100_000, [
      [4096, 8192],
      [65536, 69632],
    ])
    const extents = new FileExtents()
    expect(report(extents, file, 0, 100_000)).toEqual(['zero 0+4096'])
    file.data.shift()
    // Taken for data, which does no harm.
    expect(report(extents, file, 4096, 95_904)).toEqual(['data 4096+95904'])
    extents.forget(4096, 4096)
    expect(report(extents, file, 4096, 95_904)).toEqual(['zero 4096+61440'])
  })

  test('stops as soon as the sink has enough', () => {
    const file = new Sparse(100_000, [[4096, 8192]])
    expect(report(new FileExtents(), file, 0, 100_000, 1, 1)).toEqual(['zero 0+4096'])
    expect(report(new FileExtents(), file, 4096, 4096, 1, 1)).toEqual(['data 4096+4096'])
  })

  test('rounds a data extent that ends with the file up to the alignment', () => {
    const file = new Sparse(1000, [[0, 1000]])
    expect(report(new FileExtents(), file, 0, 1024, 512)).toEqual(['data 0+1024'])
    expect(reportAll(new FileExtents(), file, 0, 1024)).toEqual(['data 0+1000', 'zero 1000+24'])
  })

  test('a hole smaller than one request counts as data, a larger one is rounded down', () => {
    const file = new Sparse(8192, [[100, 8192]])
    expect(report(new FileExtents(), file, 0, 8192, 512)).toEqual(['data 0+512', 'data 512+7680'])
    const longer = new Sparse(8192, [[700, 8192]])
    expect(report(new FileExtents(), longer, 0, 1024, 512)).toEqual(['zero 0+512', 'data 512+512'])
  })

  test('remembers the last data region until it is told to forget', () => {
    const file = new Sparse(1 << 20, [[0, 1 << 20]])
    const extents = new FileExtents()
    report(extents, file, 0, 4096)
    const calls = file.calls
    expect(report(extents, file, 524_288, 4096)).toEqual(['data 524288+4096'])
    expect(file.calls).toBe(calls)
    extents.forget(2 << 20, 4096)
    report(extents, file, 0, 512)
    expect(file.calls).toBe(calls)
    extents.forget(1000, 1)
    file.data[0] = [8192, 1 << 20]
    expect(reportAll(extents, file, 0, 16384)).toEqual(['zero 0+8192', 'data 8192+8192'])
  })

  test('everything is data where the platform cannot tell', () => {
    const blind = { seekData: () => undefined, seekHole: () => undefined }
    expect(report(new FileExtents(), blind, 512, 4096)).toEqual(['data 512+4096'])
    const raced = { seekData: (at: number) => at, seekHole: (at: number) => at }
    expect(report(new FileExtents(), raced, 512, 4096)).toEqual(['data 512+4096'])
  })
})
