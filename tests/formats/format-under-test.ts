import { allDrivers } from '../../src/all-drivers.js'
import { addSecret } from '../../src/formatkit/crypto/index.js'
import {
  type BlockLayer,
  type CreateValues,
  checkNode,
  createBlockLayer,
  createWithDriver,
} from '../../src/graph/index.js'
import type { OptionTree } from '../../src/options/index.js'
import { createNodeHost } from '../../src/platform/node/index.js'
import { MemoryHost, type MemoryHostOptions } from '../../src/testing/index.js'

/** What the conformance suite must know of a format, or of one variant of it. */
export interface FormatUnderTest {
  /** Driver name. */
  readonly format: string
  /** What tells this variant from others of the format; default: the driver name. */
  readonly title?: string
  /** Create options besides the size. */
  readonly create?: CreateValues
  /** Guest size asked for in bytes, a multiple of 512; default 256 KiB. Drivers may round it up. */
  readonly size?: number
  /** Open options besides the driver and its file. */
  readonly open?: OptionTree
  /** False: the driver cannot write; only reading and damage are tested. Default true. */
  readonly writable?: boolean
  /** Size that the image is grown to; absent if it cannot. */
  readonly grownSize?: number
  /** States after a crash that are tried for each seed, unless `CRASH_STATES` says; default 150. */
  readonly crashStates?: number
  /** Whether the driver checks images; default false. */
  readonly checks?: boolean
  /** An image that was not closed has to be repaired before it is written to again. */
  readonly repairs?: boolean
  /** Several files make one image: no test that puts something between the format and its file. */
  readonly manyFiles?: boolean
  /** The file that the damage test damages; default: {@link imagePath}. */
  readonly damaged?: string
  /** Ranges `[from, to)` of that file, bytes, that hold metadata; default: the first 4 KiB. */
  readonly metadata?: readonly (readonly [from: number, to: number])[]
  /** Makes an image without the driver's `create`, for formats that have none; puts files under `/`. */
  readonly build?: (host: MemoryHost) => unknown
  /** What the built image reads as. */
  readonly built?: Uint8Array
}

/** Where the image under test stands. */
export const imagePath = '/image'

/** Guest sector: the unit of the suite's requests and stamps. Bytes. */
export const sector = 512

const node = createNodeHost()

/** A platform in memory that has Node's codecs and ciphers. */
export function memoryHost(options: MemoryHostOptions = {}): MemoryHost {
  return new MemoryHost({ codecs: node.codecs, ciphers: node.ciphers, ...options })
}

/** A block layer with every driver, and the password `secret` for those who ask for a key. */
export function layerOn(host: MemoryHost): BlockLayer {
  const layer = createBlockLayer({ host, drivers: allDrivers })
  addSecret(layer, { id: 'secret', format: 'raw', data: 'password' })
  return layer
}

/** Makes the image at {@link imagePath} and whatever other files belong to it. */
export async function makeImage(host: MemoryHost, under: FormatUnderTest): Promise<void> {
  if (under.build !== undefined) {
    await under.build(host)
    return
  }
  await createImageAt(host, imagePath, under.format, { ...under.create, size: under.size ?? 262144 })
}

/** Creates an image of `format` with these options and the driver's defaults. */
export async function createImageAt(
  host: MemoryHost,
  path: string,
  format: string,
  options: CreateValues,
): Promise<void> {
  const layer = layerOn(host)
  const driver = layer.findFormat(format)
  if (driver === undefined) {
    throw new Error(`no driver ${format}`)
  }
  await createWithDriver(layer, driver, path, { ...defaultsOf(driver.createOptions ?? {}), ...options })
}

/** Does what has to be done after a crash before the image can be used. */
export async function recover(layer: BlockLayer, under: FormatUnderTest): Promise<void> {
  if (under.repairs) {
    const node = await layer.open(imagePath, openOptions(under), { write: true, check: true })
    await checkNode(node, { leaks: false, errors: true })
    await layer.unref(node)
  }
}

function defaultsOf(schema: object): CreateValues {
  const values: Record<string, string | number | boolean> = {}
  for (const [name, option] of Object.entries(schema) as [
    string,
    { default?: string | number | boolean },
  ][]) {
    if (option.default !== undefined) {
      values[name] = option.default
    }
  }
  return values
}

/** Options that open the image at {@link imagePath}. */
export function openOptions(under: FormatUnderTest): OptionTree {
  return { driver: under.format, ...under.open }
}

/** All files of a host, copied. */
export function filesOf(host: MemoryHost): Map<string, Uint8Array> {
  return new Map(host.paths.map((path) => [path, host.contents(path)?.bytes() ?? new Uint8Array(0)]))
}

/** A platform that holds these files. */
export function hostWith(
  files: ReadonlyMap<string, Uint8Array>,
  options: MemoryHostOptions = {},
): MemoryHost {
  const host = memoryHost(options)
  for (const [path, bytes] of files) {
    host.put(path, bytes)
  }
  return host
}

/** Deterministic numbers in [0, 1). */
export function seeded(seed: number): () => number {
  let state = (seed * 2654435761) >>> 0
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}
