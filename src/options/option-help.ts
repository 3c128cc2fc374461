import type { OptionSchema, OptionSpec } from './schema.js'

const typeNames: Readonly<Record<OptionSpec['type'], string>> = {
  string: 'str',
  enum: 'str',
  bool: 'bool (on/off)',
  size: 'size',
  number: 'num',
}

/** The options of a schema, one line each as `-o help` lists them: sorted by name. */
export function formatOptionHelp(schema: OptionSchema): string[] {
  return Object.entries(schema)
    .map(([name, spec]) => {
      const usage = `  ${name}=<${typeNames[spec.type]}>`
      return spec.help === undefined ? usage : `${usage.padEnd(24)} - ${spec.help}`
    })
    .sort((a, b) => (a < b ? -1 : a > b ? 1 : 0))
}
