import fs from 'node:fs'
import { afterAll, describe, expect, test } from 'vitest'
import {
  checkImage,
  collectImageInfo,
  convertImage,
  createImage,
  type ImageSpec,
  openImage,
} from '../../../src/image/index.js'
import { openImage as openLibraryImage } from '../../../src/library/index.js'
import { guestMap, haveQemu, random, Workshop } from '../image/qemu.js'

/** One variant of a format, which QEMU's tools can create, too. */
export interface FormatCase {
  /** Driver name. */
  readonly format: string
  /** `-o` options, as on a command line. */
  readonly options?: string
  /** Bytes. */
  readonly size: number
  /** Makes this image a child of the images' `-b`; a raw one of the same size with random contents. */
  readonly backing?: { readonly format: string; readonly options?: string }
  /** False: images are only written by convert (compressed streams). */
  readonly writable?: boolean
  /** False: the format has no `check`. */
  readonly checks?: boolean
  /** False: blocks stand elsewhere than QEMU puts them (default true: maps are equal with host offsets). */
  readonly sameLayout?: boolean
  /** False: writing zeroes where nothing is makes a block in QEMU only, so that maps of written images differ. */
  readonly sameZeroes?: boolean
  /** False: QEMU does not tell where data is in this format, and we do (default true). */
  readonly qemuMaps?: boolean
  /** False: QEMU's own image does not read as what was written, so that ours is compared with a raw one. */
  readonly qemuKeeps?: boolean
  /** Takes out of `info --output=json` what differs between two images made alike (UUIDs, CIDs, names). */
  readonly normalize?: (info: Record<string, unknown>) => unknown
  /** Multiple of which writes are; default 512 bytes. */
  readonly unit?: number
}

/** Random scripts for each case. 30 in the long run. */
const scripts = process.env.BLOCKGRAPH_FULL_MATRIX === '1' ? 30 : 2

interface Step {
  readonly kind: 'write' | 'zero' | 'unmap'
  readonly offset: number
  readonly bytes: number
  readonly pattern: number
}

function scriptOf(c: FormatCase, seed: number): Step[] {
  const below = random(seed * 7919 + c.size)
  const unit = c.unit ?? 512
  const steps: Step[] = []
  for (let i = 0; i < 20; i++) {
    const grain = [unit, unit, Math.max(unit, 4096), Math.max(unit, 65536)][below(4)] ?? unit
    const units = Math.floor(c.size / grain)
    const first = below(units)
    const count = 1 + below(Math.min(units - first, Math.ceil(300000 / grain)))
    const kind = (['write', 'write', 'write', 'zero', 'unmap'] as const)[below(5)] ?? 'write'
    steps.push({ kind, offset: first * grain, bytes: count * grain, pattern: 1 + below(255) })
  }
  return steps
}

function commandOf({ kind, offset, bytes, pattern }: Step): string {
  return kind === 'write'
    ? `write -P ${pattern} ${offset} ${bytes}`
    : `write -z ${kind === 'unmap' ? '-u ' : ''}${offset} ${bytes}`
}

/** Removes what says where and how much of the host's disk is taken. */
function withoutHost(info: unknown, path: string): Record<string, unknown> {
  const text = JSON.stringify(info).replaceAll(path, 'IMAGE')
  const { 'actual-size': _size, ...rest } = JSON.parse(text) as Record<string, unknown>
  return rest
}

/**
 * Compares a format with QEMU's own: what QEMU writes we read and describe as QEMU does; what we write
 * QEMU reads, finds clean and describes as its own; conversions give the same image.
 */
export function formatMatrix(cases: readonly FormatCase[]): void {
  const named = cases.map(
    (c) => [`${c.format} ${c.options ?? ''}${c.backing ? ' with backing' : ''}`, c] as const,
  )
  test('QEMU is there to compare with', () => {
    expect(haveQemu).toBe(true)
  })
  describe.each(named)('%s', (_name, c) => {
    const shop = new Workshop()
    afterAll(async () => {
      await shop.clear()
    })
    const seeds = Array.from({ length: scripts }, (_, index) => index + 1)
    const spec = (path: string): ImageSpec => ({ filename: path, format: c.format })

    function makeBacking(seed: number): { file: string; format: string } | undefined {
      if (c.backing === undefined) {
        return undefined
      }
      const file = shop.path(`base-${seed}`)
      if (!fs.existsSync(file)) {
        const options = c.backing.options === undefined ? [] : ['-o', c.backing.options]
        shop.img('create', '-q', '-f', c.backing.format, ...options, file, String(c.size))
        shop.io(file, c.backing.format, scriptOf(c, seed + 500).map(commandOf))
      }
      return { file, format: c.backing.format }
    }

    function makeWithQemu(path: string, seed: number): void {
      const backing = makeBacking(seed)
      const options = c.options === undefined ? [] : ['-o', c.options]
      const onBacking = backing === undefined ? [] : ['-b', backing.file, '-F', backing.format]
      if (c.writable === false) {
        shop.img('create', '-q', '-f', 'raw', `${path}.raw`, String(c.size))
        shop.io(`${path}.raw`, 'raw', scriptOf(c, seed).map(commandOf))
        shop.img('convert', '-f', 'raw', '-O', c.format, ...options, `${path}.raw`, path)
        return
      }
      shop.img('create', '-q', '-f', c.format, ...options, ...onBacking, path, String(c.size))
      shop.io(path, c.format, scriptOf(c, seed).map(commandOf))
    }

    /** What the guest sees after the script. */
    function makeRaw(seed: number): string {
      const raw = shop.path(`raw-${seed}`)
      const backing = makeBacking(seed)
      if (backing === undefined) {
        shop.img('create', '-q', '-f', 'raw', raw, String(c.size))
      } else {
        shop.img('convert', '-f', backing.format, '-O', 'raw', backing.file, raw)
      }
      shop.io(raw, 'raw', scriptOf(c, seed).map(commandOf))
      return raw
    }

    async function checkJson(path: string): Promise<unknown> {
      const image = await openImage(shop.layer, spec(path), { check: true })
      try {
        return (await checkImage(image, { label: path })).check
      } finally {
        await image.close()
      }
    }

    test.each(seeds)("script %i: QEMU's image is read and described as QEMU does", async (seed) => {
      const path = shop.path(`qemu-${seed}`)
      makeWithQemu(path, seed)
      const info = await collectImageInfo(shop.layer, spec(path))
      expect(withoutHost(Array.isArray(info) ? info[0] : info, path)).toEqual(
        withoutHost(shop.json('info', '-f', c.format, path), path),
      )
      if (c.qemuMaps !== false) {
        expect(await shop.map(path, c.format)).toEqual(shop.json('map', '-f', c.format, path))
      }
      if (c.checks !== false) {
        expect(await checkJson(path)).toEqual(shop.json('check', '-f', c.format, path))
      }
      const ours = shop.path('ours.raw')
      const theirs = shop.path('theirs.raw')
      await convertImage(shop.layer, { sources: [spec(path)], target: ours, format: 'raw' })
      shop.img('convert', '-f', c.format, '-O', 'raw', path, theirs)
      expect(Buffer.compare(fs.readFileSync(ours), fs.readFileSync(theirs))).toBe(0)
    })

    test.each(seeds)('script %i: our image is what QEMU would have made', async (seed) => {
      const path = shop.path(`ours-${seed}`)
      const twin = shop.path(`twin-${seed}`)
      if (c.writable === false) {
        makeWithQemu(twin, seed)
        await convertImage(shop.layer, {
          sources: [{ filename: `${twin}.raw`, format: 'raw' }],
          target: path,
          format: c.format,
          options: c.options,
        })
      } else {
        await createImage(shop.layer, {
          filename: path,
          format: c.format,
          options: c.options,
          size: c.size,
          backing: makeBacking(seed),
        })
        const image = await openLibraryImage(shop.layer, path, {
          readOnly: false,
          format: c.format,
          options: { discard: 'unmap' },
        })
        for (const { kind, offset, bytes, pattern } of scriptOf(c, seed)) {
          if (kind === 'write') {
            await image.write(offset, new Uint8Array(bytes).fill(pattern))
          } else {
            await image.writeZeroes(offset, bytes, { unmap: kind === 'unmap' })
          }
        }
        await image.close()
        makeWithQemu(twin, seed)
      }
      if (c.qemuKeeps === false) {
        shop.img('compare', '-f', c.format, '-F', 'raw', path, makeRaw(seed))
      } else {
        shop.img('compare', '-f', c.format, '-F', c.format, path, twin)
      }
      if (c.checks !== false) {
        shop.img('check', '-f', c.format, path)
      }
      const layout = c.sameLayout === false ? guestMap : (map: unknown) => map
      const map = (of: string) =>
        JSON.parse(JSON.stringify(shop.json('map', '-f', c.format, of)).replaceAll(of, 'IMAGE'))
      if (c.sameZeroes !== false) {
        expect(layout(map(path))).toEqual(layout(map(twin)))
      }
      const normalize = c.normalize ?? ((info) => info)
      const infoOf = (of: string) => normalize(withoutHost(shop.json('info', '-f', c.format, of), of))
      expect(infoOf(path)).toEqual(infoOf(twin))
    })

    test('a conversion into it is what QEMU would have written', async () => {
      const source = shop.path('source.raw')
      shop.img('create', '-q', '-f', 'raw', source, String(c.size))
      shop.io(source, 'raw', scriptOf(c, 99).map(commandOf))
      const ours = shop.path('converted-ours')
      const theirs = shop.path('converted-theirs')
      await convertImage(shop.layer, {
        sources: [{ filename: source, format: 'raw' }],
        target: ours,
        format: c.format,
        options: c.options,
      })
      const options = c.options === undefined ? [] : ['-o', c.options]
      shop.img('convert', '-f', 'raw', '-O', c.format, ...options, source, theirs)
      shop.img('compare', '-f', c.format, '-F', 'raw', ours, source)
      if (c.checks !== false) {
        shop.img('check', '-f', c.format, ours)
      }
      expect(guestMap(shop.json('map', '-f', c.format, ours))).toEqual(
        guestMap(shop.json('map', '-f', c.format, theirs)),
      )
    })
  })
}
