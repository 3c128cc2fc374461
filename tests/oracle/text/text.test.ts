import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { run } from '../../../src/tools/img/run.js'
import { readCases, wordsOf } from './cases.js'
import { comparable, Fixture, memoryContext, names, type Outcome, runOracle } from './fixture.js'

let fixture: Fixture | undefined
const start = process.cwd()

beforeAll(() => {
  fixture = new Fixture()
})

afterAll(() => {
  process.chdir(start)
  fixture?.remove()
})

async function runOurs(args: readonly string[], cwd: string): Promise<Outcome> {
  process.chdir(cwd)
  const output = memoryContext()
  const status = await run(args, output.context)
  process.chdir(start)
  return { stdout: output.stdout, stderr: output.stderr, status, files: names(cwd) }
}

for (const [subject, lines] of readCases()) {
  describe(subject, () => {
    for (const line of lines) {
      test(`qemu-img ${line}`, async () => {
        if (fixture === undefined) {
          throw new Error('no images')
        }
        const args = wordsOf(line)
        // Both see the same path, so that even messages with full paths are the same.
        const theirs = runOracle(args, fixture.folder('work'))
        const ours = await runOurs(args, fixture.folder('work'))
        const shown = ({ stdout, stderr, status, files }: Outcome) => ({
          stdout: comparable(stdout),
          stderr: comparable(stderr),
          status,
          // A target that failed is gone with us, and half made with them.
          files: status === 0 ? files : [],
        })
        expect(shown(ours)).toEqual(shown(theirs))
      })
    }
  })
}
