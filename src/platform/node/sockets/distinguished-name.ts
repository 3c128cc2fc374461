/**
 * The subject of a certificate as GnuTLS writes it, which is what QEMU's users name clients by: in the order of the
 * certificate, `C=GB,O=Acme\, Inc,CN=client`. X.509: RFC 5280, 4.1; DER: X.690; escapes: RFC 4514, 2.4.
 */

/** A value in DER: its tag, and where its contents stand. */
interface Element {
  readonly tag: number
  readonly start: number
  readonly end: number
}

const Tag = {
  utf8: 12,
  numeric: 18,
  printable: 19,
  t61: 20,
  ia5: 22,
  visible: 26,
  universal: 28,
  bmp: 30,
  context0: 0xa0,
} as const

/** Names of attributes; others are written as their number. */
const names: Readonly<Record<string, string>> = {
  '2.5.4.3': 'CN',
  '2.5.4.4': 'surName',
  '2.5.4.5': 'serialNumber',
  '2.5.4.6': 'C',
  '2.5.4.7': 'L',
  '2.5.4.8': 'ST',
  '2.5.4.9': 'street',
  '2.5.4.10': 'O',
  '2.5.4.11': 'OU',
  '2.5.4.12': 'title',
  '2.5.4.13': 'description',
  '2.5.4.15': 'businessCategory',
  '2.5.4.16': 'postalAddress',
  '2.5.4.17': 'postalCode',
  '2.5.4.20': 'telephoneNumber',
  '2.5.4.41': 'name',
  '2.5.4.42': 'givenName',
  '2.5.4.43': 'initials',
  '2.5.4.44': 'generationQualifier',
  '2.5.4.46': 'dnQualifier',
  '2.5.4.65': 'pseudonym',
  '0.9.2342.19200300.100.1.1': 'UID',
  '0.9.2342.19200300.100.1.25': 'DC',
  '1.2.840.113549.1.9.1': 'EMAIL',
}

/** @throws RangeError for what is no DER */
function elementAt(der: Uint8Array, at: number, end: number): Element {
  const tag = der[at]
  let length = der[at + 1]
  let start = at + 2
  if (tag === undefined || length === undefined || start > end) {
    throw new RangeError('certificate ends early')
  }
  if (length >= 0x80) {
    const bytes = length & 0x7f
    if (bytes === 0 || bytes > 3 || start + bytes > end) {
      throw new RangeError('length that is none')
    }
    length = 0
    for (let i = 0; i < bytes; i++) {
      length = length * 256 + (der[start + i] as number)
    }
    start += bytes
  }
  if (start + length > end) {
    throw new RangeError('element goes beyond the one around it')
  }
  return { tag, start, end: start + length }
}

function* elements(der: Uint8Array, { start, end }: Element): Generator<Element> {
  for (let at = start; at < end; ) {
    const element = elementAt(der, at, end)
    yield element
    at = element.end
  }
}

function identifier(der: Uint8Array, { start, end }: Element): string {
  const numbers: number[] = []
  let number = 0
  for (let at = start; at < end; at++) {
    const byte = der[at] as number
    number = number * 128 + (byte & 0x7f)
    if (byte < 0x80) {
      numbers.push(number)
      number = 0
    }
  }
  const [first = 0, ...rest] = numbers
  const root = Math.min(2, Math.floor(first / 40))
  return [root, first - root * 40, ...rest].join('.')
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')
}

/** A string of any kind; undefined: the value is none. */
function textOf(der: Uint8Array, { tag, start, end }: Element): string | undefined {
  const bytes = der.subarray(start, end)
  switch (tag) {
    case Tag.utf8:
      // A mark in front is part of the name: without it this would be another one.
      return new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes)
    case Tag.numeric:
    case Tag.printable:
    case Tag.t61:
    case Tag.ia5:
    case Tag.visible:
      return new TextDecoder('latin1').decode(bytes)
    case Tag.bmp:
      return new TextDecoder('utf-16be', { ignoreBOM: true }).decode(bytes)
    case Tag.universal: {
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length - (bytes.length % 4))
      let text = ''
      for (let at = 0; at < view.byteLength; at += 4) {
        const point = view.getUint32(at)
        text += String.fromCodePoint(point > 0x10ffff ? 0xfffd : point)
      }
      return text
    }
    default:
      return undefined
  }
}

function escaped(text: string): string {
  return text.replace(/[,+"\\<>;]/g, '\\$&').replace(/^[ #]| $/g, '\\$&')
}

function attribute(der: Uint8Array, pair: Element): string {
  const type = elementAt(der, pair.start, pair.end)
  const value = elementAt(der, type.end, pair.end)
  const number = identifier(der, type)
  const name = names[number]
  const text = name === undefined ? undefined : textOf(der, value)
  return `${name ?? number}=${text === undefined ? `#${hex(der.subarray(type.end, value.end))}` : escaped(text)}`
}

/**
 * @param certificate in DER, checked by whoever trusts it
 * @throws RangeError for what is no certificate
 */
export function distinguishedName(certificate: Uint8Array): string {
  const outer = elementAt(certificate, 0, certificate.length)
  const body = elementAt(certificate, outer.start, outer.end)
  const fields = [...elements(certificate, body)]
  // Version, if it is there; serial number, algorithm, issuer, validity.
  const subject = fields[fields[0]?.tag === Tag.context0 ? 5 : 4]
  if (subject === undefined) {
    throw new RangeError('certificate without subject')
  }
  const parts: string[] = []
  for (const set of elements(certificate, subject)) {
    parts.push([...elements(certificate, set)].map((pair) => attribute(certificate, pair)).join('+'))
  }
  return parts.join(',')
}
