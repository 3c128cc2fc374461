/** CRC-32C (Castagnoli), reflected, as iSCSI, ext4 and VHDX use it. */

const table = new Uint32Array(256)
for (let i = 0; i < 256; i++) {
  let value = i
  for (let bit = 0; bit < 8; bit++) {
    value = value & 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1
  }
  table[i] = value >>> 0
}

/**
 * The checksum of `bytes`, as an unsigned number. `hole` is the place of four bytes that count as
 * zeroes: where the checksum itself stands.
 */
export function crc32c(bytes: Uint8Array, hole = -4): number {
  let crc = 0xffffffff
  for (let i = 0; i < bytes.length; i++) {
    const byte = i >= hole && i < hole + 4 ? 0 : (bytes[i] as number)
    crc = (table[(crc ^ byte) & 0xff] as number) ^ (crc >>> 8)
  }
  return ~crc >>> 0
}
