import type { OptionSchema, OptionSpec } from './schema.js'

/** What {@link driverOptionDocs} needs of a driver. */
export interface DocumentedDriver {
  readonly name: string
  readonly kind: string
  readonly options: OptionSchema
  readonly createOptions?: OptionSchema
  readonly amendOptions?: OptionSchema
}

const typeNames: Readonly<Record<OptionSpec['type'], string>> = {
  string: 'text',
  enum: 'word',
  bool: 'on or off',
  size: 'size',
  number: 'number',
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|').replaceAll('\n', ' ')
}

function table(schema: OptionSchema): string[] {
  const rows = Object.entries(schema).map(([name, spec]) => {
    const type = spec.values === undefined ? typeNames[spec.type] : spec.values.join(', ')
    const value = spec.default === undefined ? '' : `\`${String(spec.default)}\``
    return `| \`${name}\` | ${cell(type)} | ${cell(value)} | ${cell(spec.help ?? '')} |`
  })
  return rows.length === 0
    ? ['None.', '']
    : ['| option | value | default | meaning |', '|---|---|---|---|', ...rows, '']
}

/**
 * The options of every driver as Markdown, from the schemas that also check them and print `-o help`.
 * Every driver is listed once, by kind and then by name.
 */
export function driverOptionDocs(drivers: readonly DocumentedDriver[], generic: OptionSchema): string {
  const lines = [
    '# Options of every driver',
    '',
    'Generated from the option schemas by `npm run option-docs`; do not edit. Sizes take the suffixes',
    '`k`, `M`, `G`, `T`, `P` and `E`.',
    '',
    '## Every node',
    '',
    ...table(generic),
  ]
  for (const kind of ['format', 'protocol', 'filter']) {
    // A driver with several prefixes of names is there several times.
    const ofKind = [...new Map(drivers.map((driver) => [driver.name, driver])).values()].filter(
      (driver) => driver.kind === kind,
    )
    for (const driver of ofKind.sort((a, b) => (a.name < b.name ? -1 : 1))) {
      lines.push(`## ${driver.name} (${kind})`, '', '### Open', '', ...table(driver.options))
      if (driver.createOptions !== undefined) {
        lines.push('### Create', '', ...table(driver.createOptions))
      }
      if (driver.amendOptions !== undefined) {
        lines.push('### Amend', '', ...table(driver.amendOptions))
      }
    }
  }
  return `${lines.join('\n').trimEnd()}\n`
}
