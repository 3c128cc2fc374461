import { allDrivers } from '../../src/all-drivers.js'
import { type BlockDriver, type BlockLayer, createBlockLayer } from '../../src/graph/index.js'
import { createNodeHost } from '../../src/platform/node/index.js'
import { MemoryHost, type MemoryHostOptions } from '../../src/testing/index.js'

/** A format driver that never opens anything: enough for registry and probing rules. */
export function toyFormat(name: string, score = 0, more: Partial<BlockDriver> = {}): BlockDriver {
  return {
    name,
    kind: 'format',
    options: {},
    probe: () => score,
    load: () => ({
      open: ({ file }) => ({
        length: file.node.length,
        direct: {
          read: (offset, bytes, buffer, bufferOffset, flags) =>
            file.node.read(offset, bytes, buffer, bufferOffset, flags),
        },
        close: () => undefined,
      }),
    }),
    ...more,
  }
}

/** A layer over a platform in memory with all real drivers and the given ones registered after them. */
export function memoryLayer(
  options: MemoryHostOptions & {
    drivers?: readonly BlockDriver[]
    whitelist?: { readWrite: string[]; readOnly: string[] }
  } = {},
): { layer: BlockLayer; host: MemoryHost } {
  const host = new MemoryHost({ codecs: createNodeHost().codecs, ...options })
  const layer = createBlockLayer({
    host,
    drivers: [...allDrivers, ...(options.drivers ?? [])],
    ...(options.whitelist === undefined ? {} : { whitelist: options.whitelist }),
  })
  return { layer, host }
}

/** The message and code of what `run` throws; fails if it does not throw. */
export async function failure(run: () => unknown): Promise<{ message: string; code: string | undefined }> {
  try {
    await run()
  } catch (error) {
    return { message: (error as Error).message, code: (error as { code?: string }).code }
  }
  throw new Error('expected a failure')
}

/** Bytes that differ everywhere, for recognising where they came from. */
export function pattern(bytes: number, seed: number): Uint8Array {
  return Uint8Array.from({ length: bytes }, (_, i) => (seed * 31 + i * 7 + (i >> 8)) & 255)
}
