import { codeOf, type ErrnoName } from '../../../errors/index.js'

/** What several children answered alike. */
export interface Version<T> {
  readonly value: T
  /** Which children, in order. */
  readonly voters: number[]
}

/** Groups answers that are the same; the newest version comes first. */
export function versionsOf<T>(
  answers: readonly (readonly [child: number, value: T])[],
  same: (a: T, b: T) => boolean,
): Version<T>[] {
  const versions: Version<T>[] = []
  for (const [child, value] of answers) {
    const version = versions.find((one) => same(one.value, value))
    if (version === undefined) {
      versions.unshift({ value, voters: [child] })
    } else {
      version.voters.push(child)
    }
  }
  return versions
}

/** The version with the most votes; of equals the newest. */
export function winnerOf<T>(versions: readonly Version<T>[]): Version<T> | undefined {
  let winner: Version<T> | undefined
  for (const version of versions) {
    if (winner === undefined || version.voters.length > winner.voters.length) {
      winner = version
    }
  }
  return winner
}

/** The errno that most failures have. */
export function commonError(errors: readonly unknown[]): ErrnoName {
  const answers = errors.map((error, index) => [index, codeOf(error)] as const)
  return winnerOf(versionsOf(answers, (a, b) => a === b))?.value ?? 'EIO'
}
