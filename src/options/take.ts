import { blockError } from '../errors/index.js'
import type { OptionDict, OptionValue } from './dict.js'
import type { OptionSchema, OptionSpec, OptionsOf } from './schema.js'
import { parseSize } from './size.js'

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
    case 'size': {
      const size = typeof value === 'number' ? value : parseSize(String(value))
      if (typeof size !== 'number' || size < 0 || !Number.isInteger(size)) {
        throw blockError('EINVAL', `Parameter '${name}' expects a non-negative number below 2^64`, {
          hint:
            'Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n' +
            'and exabytes, respectively.',
        })
      }
      return size
    }
    case 'number': {
      const number =
        typeof value === 'number'
          ? value
          : /^\s*\+?(\d+|0x[0-9a-fA-F]+)$/.test(String(value))
            ? Number(value)
            : NaN
      if (!Number.isSafeInteger(number)) {
        throw blockError('EINVAL', `Parameter '${name}' expects a number`)
      }
      return number
    }
    case 'enum':
    case 'string':
      return value === null ? '' : typeof value === 'boolean' ? (value ? 'on' : 'off') : String(value)
  }
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
      result[name] = typeOption(name, spec, value)
      dict.delete(name)
    }
  }
  return result as OptionsOf<S>
}
