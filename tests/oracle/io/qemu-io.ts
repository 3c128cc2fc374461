import { spawnSync } from 'node:child_process'
import { run } from '../../../src/tools/io/run.js'
import { processContext } from '../../../src/tools/main-process.js'

export interface Outcome {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

function withoutTimes(text: string): string {
  return text
    .replace(/ops; .* ops\/sec\)/g, 'ops; TIME')
    .replace(/^(\d+,\d+),\d+:\d\d:\d\d\.\d\d,[\d.]+,[\d.]+$/gm, '$1,TIME')
}

/** What qemu-io does with a command line in `folder`. */
export function theirs(argv: readonly string[], folder: string): Outcome {
  const result = spawnSync('qemu-io', argv, { cwd: folder, encoding: 'utf8', maxBuffer: 1 << 28 })
  if (result.error !== undefined) {
    throw result.error
  }
  return {
    code: result.status,
    stdout: withoutTimes(result.stdout),
    stderr: result.stderr.replace(/^qemu: module .* not found.*\n/gm, ''),
  }
}

/** What the tool of this package does with it. */
export async function ours(argv: readonly string[], folder: string): Promise<Outcome> {
  const previous = process.cwd()
  let stdout = ''
  let stderr = ''
  process.chdir(folder)
  try {
    const code = await run(argv, {
      ...processContext('qemu-io', new AbortController().signal),
      stdout: (text) => {
        stdout += text
      },
      stderr: (text) => {
        stderr += text
      },
    })
    return { code, stdout: withoutTimes(stdout), stderr }
  } finally {
    process.chdir(previous)
  }
}
