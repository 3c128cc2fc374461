import { formatMatrix } from './matrix.js'

/** Identifiers of contents and names of extents are those of one image. */
function normalize(info: Record<string, unknown>): unknown {
  const text = JSON.stringify(info)
    .replaceAll(/"cid":\d+/g, '"cid":0')
    .replaceAll(/"parent-cid":\d{1,9}\b(?!\d)/g, '"parent-cid":0')
    .replaceAll(/"filename":"[^"]*"/g, '"filename":""')
  return JSON.parse(text)
}

formatMatrix([
  { format: 'vmdk', size: 5 << 20, sameLayout: false, sameZeroes: false, normalize },
  {
    format: 'vmdk',
    options: 'zeroed_grain=on',
    size: (3 << 20) + 512,
    sameLayout: false,
    sameZeroes: false,
    normalize,
  },
  { format: 'vmdk', options: 'subformat=monolithicFlat', size: 2 << 20, normalize },
  {
    format: 'vmdk',
    options: 'subformat=twoGbMaxExtentSparse,adapter_type=lsilogic',
    size: 3 << 20,
    sameLayout: false,
    sameZeroes: false,
    normalize,
  },
  { format: 'vmdk', options: 'subformat=twoGbMaxExtentFlat,compat6=on', size: 2 << 20, normalize },
  {
    format: 'vmdk',
    size: 4 << 20,
    backing: { format: 'vmdk' },
    sameLayout: false,
    sameZeroes: false,
    normalize,
  },
  {
    format: 'vmdk',
    options: 'subformat=streamOptimized',
    size: (3 << 20) + 512,
    writable: false,
    sameLayout: false,
    sameZeroes: false,
    normalize,
  },
])
