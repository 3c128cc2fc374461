/** One option: its type, the text `-o help` prints, its default. */
export interface OptionSpec {
  readonly type: 'string' | 'bool' | 'size' | 'number' | 'enum'
  readonly help?: string
  /** Value when not given; shown in the creation banner as QEMU shows it. */
  readonly default?: string | number | boolean
  /** Allowed words of an `enum`. */
  readonly values?: readonly string[]
}

/** Options by name, spelled as QEMU spells them (create options with `_`, runtime options with `-`). */
export type OptionSchema = Readonly<Record<string, OptionSpec>>

type ValueOf<S extends OptionSpec> = S extends { type: 'enum'; values: readonly (infer V)[] }
  ? V
  : S extends { type: 'bool' }
    ? boolean
    : S extends { type: 'size' | 'number' }
      ? number
      : string

/** The typed values of a schema; every option may be absent. */
export type OptionsOf<S extends OptionSchema> = { -readonly [K in keyof S]?: ValueOf<S[K]> }

/** Declares a schema; the result's type is what {@link OptionsOf} reads. */
export function defineOptions<const S extends OptionSchema>(schema: S): S {
  return schema
}
