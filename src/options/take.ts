import { blockError } from '../errors/index.js'
import type { OptionDict, OptionValue } from './dict.js'
import type { OptionSchema, OptionSpec, OptionsOf } from './schema.js'
import { parseInteger, parseSize } from './size.js'

/** Types one value as `spec` says. Throws EINVAL with QEMU's text. */
export function typeOption(name: string, spec: OptionSpec, value: OptionValue): string | number | boolean {
  switch (spec.type) {
    case 'bool':
      if (typeof value === 'boolean') {
        return value
      }
      if (value === 'on' || value === 'yes' || value === 'true' || value === 'y') {
        return true
      }
      if (value === 'off' || value === 'no' || value === 'false' || value === 'n') {
        return false
      }
      throw blockError('EINVAL', `Parameter '${name}' expects 'on' or 'off'`)
    case 'size':
      return typeSize(name, value)
    case 'number':
      return typeNumber(name, value)
    case 'enum':
    case 'string':
      return value === null ? '' : typeof value === 'boolean' ? (value ? 'on' : 'off') : String(value)
  }
}

function typeSize(name: string, value: OptionValue): number {
  const size = typeof value === 'number' ? value : parseSize(String(value))
  if (size === 'too-large') {
    throw blockError('EINVAL', `Value '${value}' is out of range for parameter '${name}'`)
  }
  if (size === 'invalid' || size < 0 || !Number.isInteger(size)) {
    throw blockError('EINVAL', `Parameter '${name}' expects a non-negative number below 2^64`, {
      hint:
        'Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n' +
        'and exabytes, respectively.',
    })
  }
  return size
}

/** Negative numbers pass, and 2^63 and above are negative, as in QEMU: what that means is the driver's business. */
function typeNumber(name: string, value: OptionValue): number {
  const number = typeof value === 'number' && Number.isInteger(value) ? value : parseInteger(String(value))
  if (number === 'too-large') {
    throw blockError('EINVAL', `Value '${value}' is too large for parameter '${name}'`)
  }
  if (number === 'invalid') {
    throw blockError('EINVAL', `Parameter '${name}' expects a number`)
  }
  return typeof number === 'bigint' ? Number(BigInt.asIntN(64, number)) : number
}

/**
 * Takes the options of `schema` out of `dict` and types them. Enum words are not checked here:
 * drivers have their own texts for bad ones.
 */
export function takeOptions<S extends OptionSchema>(dict: OptionDict, schema: S): OptionsOf<S> {
  const result: Record<string, string | number | boolean> = {}
  for (const [name, spec] of Object.entries(schema)) {
    const value = dict.get(name)
    if (value !== undefined) {
      // `null` says nothing, except for `backing`, which is no option of a schema.
      if (value !== null) {
        result[name] = typeOption(name, spec, value)
      }
      dict.delete(name)
    }
  }
  return result as OptionsOf<S>
}
