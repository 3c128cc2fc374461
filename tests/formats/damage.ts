import { expect, test } from 'vitest'
import { isBlockError } from '../../src/errors/index.js'
import { checkNode } from '../../src/graph/index.js'
import {
  type FormatUnderTest,
  filesOf,
  hostWith,
  imagePath,
  layerOn,
  makeImage,
  memoryHost,
  openOptions,
  sector,
  seeded,
} from './format-under-test.js'

/** How many damaged images are tried; `DAMAGED_IMAGES` sets more. */
const images = Number(process.env.DAMAGED_IMAGES ?? 120)

/**
 * Images somebody has tampered with: whatever stands in the metadata, opening, reading, checking and
 * writing works or fails with a BlockError, within a second of processor time and 256 MiB.
 */
export function damageTests(under: FormatUnderTest): void {
  test(`${images} damaged images are refused or read, quickly and in bounded memory`, async () => {
    const files = await written(under)
    const { damaged = imagePath } = under
    const pristine = files.get(damaged) ?? new Uint8Array(0)
    expect(pristine.length).toBeGreaterThan(0)
    const ranges = under.metadata ?? [[0, Math.min(4096, pristine.length)]]
    const random = seeded(33)
    let refused = 0
    for (let number = 0; number < images; number++) {
      const bytes = pristine.slice()
      const fields = random() < 0.5 ? 1 : 2
      const notes: string[] = []
      for (let field = 0; field < fields; field++) {
        const [from, most] = ranges[Math.floor(random() * ranges.length)] ?? [0, 512]
        // A structure's first fields matter most.
        const to = random() < 0.5 ? Math.min(most, from + 96) : most
        const width = [1, 2, 4, 8][Math.floor(random() * 4)] ?? 4
        const at = Math.min(bytes.length - width, from + Math.floor((random() * (to - from)) / width) * width)
        const kind = random()
        for (let i = 0; i < width; i++) {
          bytes[at + i] =
            kind < 0.25 ? 0 : kind < 0.5 ? 255 : kind < 0.6 ? (i === 0 ? 128 : 0) : Math.floor(random() * 256)
        }
        notes.push(`${width} at ${at}: ${Buffer.from(bytes.subarray(at, at + width)).toString('hex')}`)
      }
      const cut = random() < 0.1 ? Math.floor(random() * bytes.length) : bytes.length
      const opened = await abuse(
        under,
        new Map([...files, [damaged, bytes.subarray(0, cut)]]),
        notes.join(', '),
      )
      refused += opened ? 0 : 1
    }
    expect(refused).toBeGreaterThan(0)
  })
}

async function written(under: FormatUnderTest): Promise<Map<string, Uint8Array>> {
  const host = memoryHost()
  await makeImage(host, under)
  if (under.writable !== false) {
    const layer = layerOn(host)
    const node = await layer.open(imagePath, openOptions(under), { write: true })
    for (const part of [0, 0.3, 0.9]) {
      const at = Math.floor((node.length * part) / sector) * sector
      const bytes = Math.min(8192, node.length - at)
      await node.write(at, bytes, new Uint8Array(bytes).fill(1 + part * 10), 0, 0)
    }
    await layer.unref(node)
  }
  return filesOf(host)
}

async function survives(step: () => unknown): Promise<boolean> {
  try {
    await step()
    return true
  } catch (error) {
    if (!isBlockError(error)) {
      throw error
    }
    expect(error.message.length).toBeGreaterThan(0)
    return false
  }
}

async function abuse(
  under: FormatUnderTest,
  files: ReadonlyMap<string, Uint8Array>,
  note: string,
): Promise<boolean> {
  const before = process.memoryUsage()
  const start = process.cpuUsage()
  const layer = layerOn(hostWith(files))
  let opened = false
  await survives(async () => {
    const node = await layer.open(imagePath, openOptions(under))
    opened = true
    const buffer = new Uint8Array(65536)
    for (let at = 0; at + buffer.length <= Math.min(node.length, 2 << 20); at += buffer.length) {
      await survives(() => node.read(at, buffer.length, buffer, 0, 0))
    }
    await survives(() => node.read(Math.floor(node.length / 1024) * 512, 512, buffer, 0, 0))
    if (under.checks) {
      await survives(() => checkNode(node, { leaks: false, errors: false }))
    }
    await layer.unref(node)
  })
  if (under.writable !== false) {
    await survives(async () => {
      const node = await layer.open(imagePath, openOptions(under), { write: true })
      const data = new Uint8Array(8192).fill(7)
      for (const part of [0, 0.1, 0.5, 0.99]) {
        const at = Math.floor((node.length * part) / sector) * sector
        if (at + data.length <= node.length) {
          await survives(() => node.write(at, data.length, data, 0, 0))
          await survives(() => node.writeZeroes(at, 4096, 4))
        }
      }
      await survives(() => layer.unref(node))
    })
  }
  expect([...layer.nodes], note).toEqual([])
  const after = process.memoryUsage()
  const grown = after.arrayBuffers + after.external - before.arrayBuffers - before.external
  expect(grown, note).toBeLessThan(256 << 20)
  // Time on the processor, microseconds: what else the machine does meanwhile does not count.
  const used = process.cpuUsage(start)
  expect(used.user + used.system, note).toBeLessThan(2_000_000)
  return opened
}
