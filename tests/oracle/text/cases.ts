import { readdirSync, readFileSync } from 'node:fs'

const folder = new URL('./cases/', import.meta.url)

/** Command lines by subject: the files of `cases/`, one command line a line, without the program. */
export function readCases(): [subject: string, lines: string[]][] {
  return readdirSync(folder).map((name) => {
    const lines = readFileSync(new URL(name, folder), 'utf8').trimEnd().split('\n')
    return [name.replace('.txt', '').replaceAll('-', ' '), lines]
  })
}

/** Splits a command line into words as a shell does; single and double quotes are all there is. */
export function wordsOf(line: string): string[] {
  return [...line.matchAll(/(?:'[^']*'|"[^"]*"|[^\s'"])+/g)].map(([word]) =>
    word.replace(/'([^']*)'|"([^"]*)"/g, (_, single?: string, double?: string) => single ?? double ?? ''),
  )
}
