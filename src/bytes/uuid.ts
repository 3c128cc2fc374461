/** `xxxxxxxx-xxxx-…` of 16 bytes in the order they stand in. */
export function uuidText(bytes: Uint8Array): string {
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}

/** As {@link uuidText}, of 16 bytes whose first three fields are little-endian. */
export function guidText(bytes: Uint8Array): string {
  const order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15]
  return uuidText(Uint8Array.from(order, (at) => bytes[at] ?? 0))
}
