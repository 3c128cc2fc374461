import { blockError, ioError } from '../../../errors/index.js'
import type { VmdkDetails } from '../../../graph/index.js'

/** Bytes that a descriptor inside an image may take. */
export const embeddedBytes = 20 * 512
/** Where it stands there, bytes. */
export const embeddedOffset = 512

export type ExtentKind = 'FLAT' | 'SPARSE' | 'VMFS' | 'VMFSSPARSE' | 'SESPARSE'

export interface ExtentLine {
  readonly sectors: number
  readonly kind: ExtentKind
  readonly filename: string
  /** Where a flat extent's data begins in its file, bytes. */
  readonly offset: number
}

/** Bytes as text, one character each: names in other encodings survive. */
export function latin1(bytes: Uint8Array): string {
  let text = ''
  for (let at = 0; at < bytes.length; at += 4096) {
    text += String.fromCharCode(...bytes.subarray(at, at + 4096))
  }
  return text
}

/** Text up to the first NUL. */
export function textOf(bytes: Uint8Array): string {
  const end = bytes.indexOf(0)
  return latin1(end < 0 ? bytes : bytes.subarray(0, end))
}

/** UTF-8 in a descriptor, which was read byte by byte. */
function utf8(text: string): string {
  const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0))
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    return text
  }
}

/** An identifier of contents: `CID` or `parentCID`. @throws BlockError EINVAL if there is none */
export function contentId(text: string, name: 'CID' | 'parentCID'): number {
  const at = text.indexOf(name)
  const match = at < 0 ? null : /^\s*(?:0x)?([\da-f]+)/i.exec(text.slice(at + name.length + 1))
  if (match === null) {
    throw ioError('EINVAL')
  }
  // As C's scanf does: what is too long keeps its lower half.
  return Number.parseInt((match[1] as string).slice(-8), 16)
}

/** The text with another `CID`, of as many digits as the old one if that is possible. */
export function withContentId(text: string, random: number): string {
  const at = text.indexOf('CID=')
  const match = /^CID=([\da-f]{1,8})/i.exec(text.slice(at))
  if (at < 0 || match === null) {
    throw ioError('EINVAL')
  }
  const digits = (match[1] as string).length
  let id = random >>> 0
  if (digits === 8) {
    id = (id | 0x10000000) >>> 0
  } else if (digits >= 6) {
    // The descriptor keeps its length, so that one sector changes.
    id = (id % (15 * 16 ** (digits - 1))) + 16 ** (digits - 1)
  }
  return `${text.slice(0, at)}CID=${id.toString(16)}${text.slice(at + match[0].length)}`
}

/**
 * The text for a longer disk: the size of extent `index` and the cylinders change. A text without them stays.
 *
 * @param length of the disk, bytes
 * @param extentLength bytes
 */
export function withSize(text: string, index: number, length: number, extentLength: number): string {
  let seen = -1
  const lines = text.split('\n').map((line) => {
    const extent = /^(\s*RW\s+)[+-]?\d+(\s+\S.*)$/.exec(line)
    if (extent !== null && ++seen === index) {
      return `${extent[1]}${extentLength / 512}${extent[2]}`
    }
    return line
  })
  const heads = Number(/^ddb\.geometry\.heads\s*=\s*"(\d{1,3})"/m.exec(text)?.[1] ?? 0)
  const all = lines.join('\n')
  return heads === 0
    ? all
    : all.replace(
        /^(ddb\.geometry\.cylinders\s*=\s*")\d+"/m,
        (_, start: string) => `${start}${Math.floor(length / (63 * heads * 512))}"`,
      )
}

/** File name of the parent, undefined if there is none. @throws BlockError EINVAL if it has no end */
export function parentName(text: string): string | undefined {
  const at = text.indexOf('parentFileNameHint')
  if (at < 0) {
    return undefined
  }
  const start = at + 'parentFileNameHint'.length + 2
  const end = text.indexOf('"', start)
  if (end < 0 || end - start > 1023) {
    throw ioError('EINVAL')
  }
  return utf8(text.slice(start, end))
}

/** The disk database, and the name of the parent. */
export function descriptorDetails(text: string): VmdkDetails {
  const parent = parentName(text)
  const details: { -readonly [K in keyof VmdkDetails]: VmdkDetails[K] } =
    parent === undefined ? {} : { 'parent-file-name': parent }
  const fields = [
    ['adapterType', 'adapter-type'],
    ['virtualHWVersion', 'hardware-version'],
    ['toolsVersion', 'tools-version'],
    ['geometry.cylinders', 'cylinders'],
    ['geometry.heads', 'heads'],
    ['geometry.sectors', 'sectors'],
    ['uuid', 'uuid'],
    ['longContentID', 'long-content-id'],
  ] as const
  for (const [field, name] of fields) {
    const value = new RegExp(`^ddb\\.${field.replace('.', '\\.')}\\s*=\\s*"([^"\\n]*)"`, 'm').exec(text)?.[1]
    if (value !== undefined) {
      details[name] = value
    }
  }
  return details
}

const createTypes = [
  'monolithicFlat',
  'vmfs',
  'vmfsSparse',
  'seSparse',
  'twoGbMaxExtentSparse',
  'twoGbMaxExtentFlat',
]

/** What the image is made of, for one whose descriptor is a file of its own. @throws BlockError with QEMU's text */
export function createType(text: string): string {
  const at = text.indexOf('createType')
  const start = at + 'createType'.length + 2
  const end = text.indexOf('"', start)
  if (at < 0 || end < 0 || end - start > 127) {
    throw blockError('EINVAL', 'invalid VMDK image descriptor')
  }
  const type = text.slice(start, end)
  if (!createTypes.includes(type)) {
    throw blockError('ENOTSUP', `Unsupported image type '${type}'`)
  }
  return type
}

const kinds: readonly string[] = ['FLAT', 'SPARSE', 'VMFS', 'VMFSSPARSE', 'SESPARSE']

/** The lines that say where the data is. @throws BlockError `Invalid extent line: %s` */
export function extentLines(text: string): ExtentLine[] {
  const lines: ExtentLine[] = []
  for (const line of text.split('\n')) {
    const match = /^\s*(\S{1,10})\s+([+-]?\d+)\s+(\S{1,10})\s*"([^\n\r"]{1,511})"?\s*([+-]?\d+)?/.exec(line)
    if (match === null || match[1] !== 'RW') {
      continue
    }
    const [, , size = '', kind = '', name = '', offsetText] = match
    const offset = offsetText === undefined ? undefined : Number(offsetText)
    const isFlat = kind === 'FLAT'
    if (isFlat ? offset === undefined || offset < 0 : offset !== undefined) {
      throw blockError('EINVAL', `Invalid extent line: ${line}`)
    }
    const sectors = Number(size)
    if (sectors <= 0 || !kinds.includes(kind)) {
      continue
    }
    const bytes = (offset ?? 0) * 512
    if (!Number.isSafeInteger(sectors * 512) || !Number.isSafeInteger(bytes)) {
      throw blockError('EINVAL', `Invalid extent line: ${line}`)
    }
    lines.push({ sectors, kind: kind as ExtentKind, filename: utf8(name), offset: bytes })
  }
  return lines
}

export interface NewDescriptor {
  readonly cid: number
  readonly parentCid: number
  readonly createType: string
  readonly parent: string | undefined
  /** Each with its newline. */
  readonly extents: string
  readonly hardwareVersion: string
  readonly cylinders: number
  readonly heads: number
  readonly adapter: string
  readonly toolsVersion: string
}

export function makeDescriptor(d: NewDescriptor): string {
  const parent = d.parent === undefined ? '' : `parentFileNameHint="${d.parent}"`
  return [
    '# Disk DescriptorFile',
    'version=1',
    `CID=${d.cid.toString(16)}`,
    `parentCID=${d.parentCid.toString(16)}`,
    `createType="${d.createType}"`,
    parent,
    '# Extent description',
    d.extents,
    '# The Disk Data Base',
    '#DDB',
    '',
    `ddb.virtualHWVersion = "${d.hardwareVersion}"`,
    `ddb.geometry.cylinders = "${d.cylinders}"`,
    `ddb.geometry.heads = "${d.heads}"`,
    'ddb.geometry.sectors = "63"',
    `ddb.adapterType = "${d.adapter}"`,
    `ddb.toolsVersion = "${d.toolsVersion}"`,
    '',
  ].join('\n')
}
