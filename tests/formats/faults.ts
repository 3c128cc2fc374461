import { expect, test } from 'vitest'
import { type ErrnoName, isBlockError } from '../../src/errors/index.js'
import { checkNode, truncateNode } from '../../src/graph/index.js'
import type { MemoryHost } from '../../src/testing/index.js'
import {
  type FormatUnderTest,
  filesOf,
  hostWith,
  imagePath,
  layerOn,
  makeImage,
  memoryHost,
  openOptions,
  recover,
  sector,
  seeded,
} from './format-under-test.js'
import { Guest, readAll, shownBy, stamp } from './guest.js'

const maxPoints = Number(process.env.FAULT_POINTS ?? 25)

interface Outcome {
  readonly operations: number
  readonly failed: boolean
  readonly problem: string | undefined
}

/**
 * A script of writes, zeroes and flushes with one operation below failing: the request may fail with
 * that errno; nothing acknowledged before or after is lost, and the image opens and checks clean.
 */
export function faultTests(under: FormatUnderTest): void {
  for (const code of ['EIO', 'ENOSPC'] as const) {
    test(`${code} from any one operation below loses nothing`, async () => {
      const fresh = memoryHost()
      await makeImage(fresh, under)
      const files = filesOf(fresh)
      const clean = await run(under, files, -1, code)
      expect([clean.failed, clean.problem]).toEqual([false, undefined])
      expect(clean.operations).toBeGreaterThan(10)
      let failures = 0
      const every = Math.max(1, Math.floor(clean.operations / maxPoints))
      for (let at = 0; at < clean.operations; at += every) {
        const { failed, problem } = await run(under, files, at, code)
        expect(problem, `operation ${at}`).toBeUndefined()
        failures += failed ? 1 : 0
      }
      // The faults must have been felt.
      expect(failures).toBeGreaterThan(3)
    })
  }
}

/**
 * One operation below failing while an image is made longer: it has the old length or the new one then, all that was
 * flushed, and can be made longer after it was opened again; what is added reads as zeroes.
 */
export function growFaultTests(under: FormatUnderTest & { grownSize: number }): void {
  test('EIO from any one operation below while it grows loses nothing', async () => {
    const fresh = memoryHost()
    await makeImage(fresh, under)
    const files = filesOf(fresh)
    const { operations } = await growWith(under, files, -1)
    expect(operations).toBeGreaterThan(1)
    let failures = 0
    const every = Math.max(1, Math.floor(operations / maxPoints))
    for (let at = 0; at < operations; at += every) {
      const { failed, problem } = await growWith(under, files, at)
      expect(problem, `operation ${at}`).toBeUndefined()
      failures += failed ? 1 : 0
    }
    expect(failures).toBeGreaterThan(0)
  })
}

async function growWith(
  under: FormatUnderTest & { grownSize: number },
  files: ReadonlyMap<string, Uint8Array>,
  failAt: number,
): Promise<Outcome> {
  const how = { exact: false, preallocation: 'off', zero: true } as const
  let operations = 0
  let armed = false
  const host = hostWith(files, {
    fault: (operation) => (armed && operation.kind !== 'read' && operations++ === failAt ? 'EIO' : undefined),
  })
  const layer = layerOn(host)
  let node = await layer.open(imagePath, openOptions(under), { write: true })
  const old = node.length
  const guest = new Guest(Math.floor(old / sector))
  const step = Math.max(1, Math.floor(guest.sectors / 24))
  for (let first = guest.sectors - 1; first >= 0; first -= step) {
    const data = guest.write(first, 1)
    await node.write(first * sector, data.length, data, 0, 0)
  }
  await node.flush()
  let failed = false
  const attempt = async (run: () => unknown): Promise<void> => {
    try {
      await run()
    } catch (error) {
      expect(isBlockError(error) && error.code).toBe('EIO')
      failed = true
    }
  }
  armed = true
  await attempt(() => truncateNode(node, under.grownSize, how))
  armed = false
  await attempt(() => layer.unref(node))
  await recover(layer, under)
  node = await layer.open(imagePath, openOptions(under), { write: true })
  try {
    const isOld = node.length === old
    if (!isOld && node.length < under.grownSize) {
      return { operations, failed, problem: `${node.length} bytes long` }
    }
    if (isOld) {
      await truncateNode(node, under.grownSize, how)
    }
    if (under.checks) {
      const check = await checkNode(node, { leaks: false, errors: false })
      if (check.corruptions !== 0 || check.checkErrors !== 0) {
        return {
          operations,
          failed,
          problem: check.messages.join('; ') || `${check.corruptions} corruptions`,
        }
      }
    }
    const data = await readAll(node, Math.min(node.length, old + (4 << 20)))
    const stray = data.subarray(guest.sectors * sector).findIndex((byte) => byte !== 0)
    const problem =
      guest.problem(data) ?? (stray < 0 ? undefined : `byte ${stray} behind the old end is not zero`)
    return { operations, failed, problem }
  } finally {
    await layer.unref(node)
  }
}

async function run(
  under: FormatUnderTest,
  files: ReadonlyMap<string, Uint8Array>,
  failAt: number,
  code: ErrnoName,
): Promise<Outcome> {
  const random = seeded(9)
  let operations = 0
  let armed = false
  const host = hostWith(files, {
    fault: (operation) => (armed && operation.kind !== 'read' && operations++ === failAt ? code : undefined),
  })
  const layer = layerOn(host)
  const node = await layer.open(imagePath, { ...openOptions(under), discard: 'unmap' }, { write: true })
  armed = true
  const sectors = Math.floor(node.length / sector)
  /** Which write each sector shows; undefined: a failed request left it open. */
  const model: (number | undefined)[] = Array.from({ length: sectors }, () => 0)
  let failed = false
  for (let step = 0; step < 30; step++) {
    const action = random()
    const first = Math.floor(random() * sectors)
    const count = Math.min(sectors - first, 1 + Math.floor(random() * 12))
    try {
      if (action < 0.55) {
        const data = new Uint8Array(count * sector)
        for (let i = 0; i < count; i++) {
          stamp(data, i * sector, first + i, step + 1)
        }
        await node.write(first * sector, data.length, data, 0, 0)
      } else if (action < 0.8) {
        await node.writeZeroes(first * sector, count * sector, action < 0.7 ? 4 : 0)
      } else {
        await node.flush()
        continue
      }
      model.fill(action < 0.55 ? step + 1 : 0, first, first + count)
    } catch (error) {
      if (!isBlockError(error)) {
        throw error
      }
      expect(error.code).toBe(code)
      failed = true
      if (action < 0.8) {
        model.fill(undefined, first, first + count)
      }
    }
  }
  let lost = false
  try {
    await layer.unref(node)
  } catch (error) {
    expect(isBlockError(error) && error.code).toBe(code)
    failed = true
    lost = true
  }
  return { operations, failed, problem: await inspect(under, host, lost ? [] : model) }
}

async function inspect(
  under: FormatUnderTest,
  host: MemoryHost,
  model: readonly (number | undefined)[],
): Promise<string | undefined> {
  const layer = layerOn(hostWith(filesOf(host)))
  await recover(layer, under)
  const node = await layer.open(imagePath, openOptions(under))
  try {
    if (under.checks) {
      const check = await checkNode(node, { leaks: false, errors: false })
      if (check.corruptions !== 0 || check.checkErrors !== 0) {
        return check.messages.join('; ') || `${check.corruptions} corruptions`
      }
    }
    const data = await readAll(node)
    for (const [guest, generation] of model.entries()) {
      if (generation === undefined) {
        continue
      }
      const shown = shownBy(data, guest * sector, guest)
      if (shown !== generation) {
        return `sector ${guest} shows ${shown}, written was ${generation}`
      }
    }
    return undefined
  } finally {
    await layer.unref(node)
  }
}
