import { execFileSync, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { allDrivers } from '../../../src/all-drivers.js'
import { type BlockLayer, createBlockLayer } from '../../../src/graph/index.js'
import { mapImage, openImage } from '../../../src/image/index.js'
import { createNodeHost } from '../../../src/platform/node/index.js'

/** Whether QEMU's tools are there to compare with. */
export const haveQemu = spawnSync('qemu-img', ['--version']).status === 0

/** A folder of its own for one test file; the tools and the library work in it with relative names. */
export class Workshop {
  readonly folder = fs.mkdtempSync(path.join(os.tmpdir(), 'blockgraph-oracle-'))
  readonly warnings: string[] = []
  readonly layer: BlockLayer = createBlockLayer({
    host: createNodeHost({ warn: (line) => this.warnings.push(line) }),
    drivers: allDrivers,
  })

  path(name: string): string {
    return path.join(this.folder, name)
  }

  async clear(): Promise<void> {
    await this.layer.closeAll()
    fs.rmSync(this.folder, { recursive: true, force: true })
  }

  /** Runs a tool that must succeed; returns its standard output. */
  run(tool: string, ...args: string[]): string {
    return execFileSync(tool, args, { cwd: this.folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
  }

  img(...args: string[]): string {
    return this.run('qemu-img', ...args)
  }

  json(...args: string[]): unknown {
    const [command = '', ...rest] = args
    return JSON.parse(this.img(command, '--output=json', ...rest))
  }

  /** Runs a tool that may fail. */
  try(...args: string[]): { status: number | null; stdout: string; stderr: string } {
    const { status, stdout, stderr } = spawnSync('qemu-img', args, { cwd: this.folder, encoding: 'utf8' })
    return { status, stdout, stderr }
  }

  io(image: string, format: string, commands: readonly string[]): void {
    const args = ['-f', format, '-d', 'unmap', ...commands.flatMap((command) => ['-c', command]), image]
    const output = this.run('qemu-io', ...args)
    if (/fail|error/i.test(output)) {
      throw new Error(`qemu-io ${args.join(' ')}: ${output}`)
    }
  }

  /** Our map of an image in the form of `qemu-img map --output=json`. */
  async map(filename: string, format: string): Promise<unknown[]> {
    const image = await openImage(this.layer, { filename, format })
    try {
      const extents: unknown[] = []
      for await (const extent of mapImage(image.node)) {
        const { start, length, depth, present, zero, data, offset } = extent
        extents.push({
          start,
          length,
          depth,
          present,
          zero,
          data,
          ...(offset === undefined ? {} : { offset }),
        })
      }
      return extents
    } finally {
      await image.close()
    }
  }
}

/** Deterministic numbers (mulberry32). */
export function random(seed: number): (below: number) => number {
  let state = seed >>> 0
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 4294967296) * below)
  }
}

/** A map without host offsets: what only differs in these is merged. */
export function guestMap(map: unknown): unknown[] {
  const merged: { start: number; length: number }[] = []
  for (const { offset: _offset, ...extent } of map as { offset?: number; start: number; length: number }[]) {
    const last = merged.at(-1)
    const { start: _start, length: _length, ...kind } = extent
    if (last !== undefined && JSON.stringify({ ...last, ...kind }) === JSON.stringify(last)) {
      last.length += extent.length
    } else {
      merged.push(extent)
    }
  }
  return merged
}
