/**
 * Splits option text as `-o` takes it: `name=value` pairs separated by commas, a comma in a value
 * doubled. A bare `name` means `on`, a bare `noname` means `off`. Later pairs count.
 */
export function parseOptionText(text: string): [name: string, value: string][] {
  const pairs: [string, string][] = []
  for (let at = 0; at < text.length; ) {
    const stop = text.slice(at).search(/[=,]/)
    const end = stop < 0 ? text.length : at + stop
    const name = text.slice(at, end)
    if (text[end] !== '=') {
      pairs.push(name.startsWith('no') ? [name.slice(2), 'off'] : [name, 'on'])
      at = end + 1
      continue
    }
    let value = ''
    at = end + 1
    while (at < text.length) {
      if (text[at] === ',') {
        if (text[at + 1] !== ',') {
          break
        }
        at++
      }
      value += text[at]
      at++
    }
    pairs.push([name, value])
    at++
  }
  return pairs
}

/** A value as it stands in option text. */
export function escapeOptionValue(value: string): string {
  return value.replaceAll(',', ',,')
}
