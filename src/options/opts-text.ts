import { blockError } from '../errors/index.js'
import { OptionDict } from './dict.js'

/** One option of a text, in the order in which they stand there. */
export interface TextOption {
  readonly name: string
  readonly value: string
  /** As it was written, if it had no `=`: `lazy_refcounts`, `nocow`. */
  readonly flag?: string
}

/** `help` or `?`: the user asks for the options. */
function isHelp(name: string): boolean {
  return name === 'help' || name === '?'
}

/**
 * Splits `name=value,name=value`; a comma in a value is doubled. A bare `name` is `on`, a bare
 * `noname` is `name=off` (any name that starts with `no`, as QEMU has it).
 *
 * @param implied name of the first option if it has no `=`
 */
function* splitOptions(text: string, implied?: string): Generator<TextOption, void, void> {
  let first = implied
  for (let at = 0; at < text.length; ) {
    const length = text.slice(at).search(/[=,]/)
    const end = length < 0 ? text.length : at + length
    const bare = text[end] !== '='
    if (bare && first === undefined) {
      const flag = text.slice(at, end)
      const off = flag.startsWith('no')
      yield { name: off ? flag.slice(2) : flag, value: off ? 'off' : 'on', flag }
      at = end + 1
    } else {
      const name = bare ? (first as string) : text.slice(at, end)
      const { value, next } = optionValue(text, bare ? at : end + 1)
      yield { name, value }
      at = next
    }
    first = undefined
  }
}

/** The value at `at` with doubled commas undone, and where the next option starts. */
function optionValue(text: string, at: number): { value: string; next: number } {
  let value = ''
  for (;;) {
    const comma = text.indexOf(',', at)
    if (comma < 0) {
      return { value: value + text.slice(at), next: text.length }
    }
    if (text[comma + 1] !== ',') {
      return { value: value + text.slice(at, comma), next: comma + 1 }
    }
    value += text.slice(at, comma + 1)
    at = comma + 2
  }
}

/**
 * The options of a text with everything that was written, in order: for texts whose reader decides himself.
 *
 * @param implied name of the first option if it has no `=`
 */
export function listOptions(text: string, implied?: string): readonly TextOption[] {
  return [...splitOptions(text, implied)]
}

/** The options of `-o`, in order; later ones count. `id` is not one of them, as in QEMU. */
export function parseOptionText(text: string): [name: string, value: string][] {
  const pairs: [string, string][] = []
  for (const { name, value } of splitOptions(text)) {
    if (name !== 'id') {
      pairs.push([name, value])
    }
  }
  return pairs
}

/** Whether option text asks for help: a bare `help` or `?` among the options. */
export function hasHelpOption(text: string): boolean {
  for (const { flag } of splitOptions(text)) {
    if (flag !== undefined && isHelp(flag)) {
      return true
    }
  }
  return false
}

/**
 * Appends the text of another `-o`. Each must be complete in itself: not empty, no comma in front,
 * no comma of its own at the end; otherwise joining would change what they mean.
 *
 * @throws BlockError EINVAL `Invalid option list: %s`
 */
export function appendOptionText(before: string | undefined, text: string): string {
  const commas = /,*$/.exec(text)?.[0].length ?? 0
  if (text === '' || text.startsWith(',') || commas % 2 === 1) {
    throw blockError('EINVAL', `Invalid option list: ${text}`)
  }
  return before === undefined ? text : `${before},${text}`
}

/** A value as it stands in option text. */
export function escapeOptionValue(value: string): string {
  return value.replaceAll(',', ',,')
}

/** What `--image-opts` text says. */
export interface ImageOptions {
  readonly options: OptionDict
  /** Warnings that QEMU prints while reading it: text without `warning: `, and the line below it. */
  readonly warnings: readonly { readonly text: string; readonly hint: string }[]
}

/** Whether `id` may name an object: a letter, then letters, digits and `-._`. */
export function isIdentifier(id: string): boolean {
  return /^[a-zA-Z][a-zA-Z0-9\-._]*$/.test(id)
}

/** EINVAL `Parameter 'id' expects an identifier`, with QEMU's hint. */
export function identifierError() {
  return blockError('EINVAL', "Parameter 'id' expects an identifier", {
    hint: "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.",
  })
}

/**
 * Parses `--image-opts` text. A first part without `=` is the `file` option, a node's name; or a flag
 * like any other with `first` 'flag', as in the options of `qemu-io`'s `open`.
 *
 * @throws BlockError EINVAL `Parameter 'id' expects an identifier`
 */
export function parseImageOptions(text: string, first: 'file' | 'flag' = 'file'): ImageOptions {
  const options = new OptionDict()
  const warnings: { text: string; hint: string }[] = []
  let id: string | undefined
  for (const { name, value, flag } of splitOptions(text, first === 'file' ? 'file' : undefined)) {
    if (flag !== undefined && !isHelp(flag)) {
      const hint = name === 'delay' ? `nodelay=${value === 'on' ? 'off' : 'on'}` : `${name}=${value}`
      warnings.push({
        text: `short-form boolean option '${flag}' deprecated`,
        hint: `Please use ${hint} instead`,
      })
    }
    if (name === 'id') {
      id ??= value
    } else {
      // Later ones count, and take the later place.
      options.delete(name)
      options.set(name, value)
    }
  }
  if (id !== undefined) {
    if (!isIdentifier(id)) {
      throw identifierError()
    }
    options.set('id', id)
  }
  return { options, warnings }
}
