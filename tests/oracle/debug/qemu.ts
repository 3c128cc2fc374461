import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { allDrivers } from '../../../src/all-drivers.js'
import { createBlockLayer } from '../../../src/graph/index.js'
import { createNodeHost } from '../../../src/platform/node/index.js'
import { run } from '../../../src/tools/img/run.js'
import { wordsOf } from '../text/cases.js'
import { memoryContext, runOracle } from '../text/fixture.js'

/** A folder with images, restored before each run, so that both programs see the same. */
export class DebugShop {
  readonly root = mkdtempSync(join(tmpdir(), 'blockgraph-debug-'))
  readonly template = join(this.root, 'template')
  readonly work = join(this.root, 'work')
  readonly #start = process.cwd()

  constructor(make: (qemu: (line: string) => void) => void) {
    mkdirSync(this.template)
    make((line) => {
      const [program = '', ...args] = wordsOf(line)
      execFileSync(program, args, { cwd: this.template, stdio: 'pipe' })
    })
  }

  #fresh(): void {
    rmSync(this.work, { recursive: true, force: true })
    execFileSync('cp', ['-a', '--sparse=always', this.template, this.work])
  }

  theirs(line: string): { status: number; stderr: string; stdout: string } {
    this.#fresh()
    const { status, stderr, stdout } = runOracle(wordsOf(line), this.work)
    return { status, stderr, stdout }
  }

  /** `aborted` are the lines with which a driver would have ended the program. */
  async ours(line: string): Promise<{ status: number; stderr: string; stdout: string; aborted: string[] }> {
    this.#fresh()
    const aborted: string[] = []
    const output = memoryContext({
      createLayer: async (warn) =>
        createBlockLayer({
          host: createNodeHost({ warn, abort: (text) => aborted.push(text) }),
          drivers: allDrivers,
        }),
    })
    process.chdir(this.work)
    try {
      const status = await run(wordsOf(line), output.context)
      return { status, stderr: output.stderr, stdout: output.stdout, aborted }
    } finally {
      process.chdir(this.#start)
    }
  }

  remove(): void {
    rmSync(this.root, { recursive: true, force: true })
  }
}
