import { blockError } from '../../errors/index.js'
import {
  addDirtyBitmap,
  type BlockLayer,
  clearDirtyBitmap,
  type DirtyBitmap,
  disableDirtyBitmap,
  enableDirtyBitmap,
  lookupDirtyBitmap,
  mergeDirtyBitmaps,
  removeDirtyBitmap,
} from '../../graph/index.js'
import type { CommandContext } from '../context.js'
import { defineHandlers } from '../handlers.js'
import type { TypeOf } from '../schema/types.js'

/** Dirty bitmaps. */
export function bitmapCommands({ layer }: CommandContext) {
  const find = (args: TypeOf<'BlockDirtyBitmap'>): DirtyBitmap =>
    lookupDirtyBitmap(layer, args.node, args.name)
  return defineHandlers({
    'block-dirty-bitmap-add': async (args) => {
      await addBitmap(layer, args)
    },
    'block-dirty-bitmap-remove': async (args) => await removeDirtyBitmap(find(args)),
    'block-dirty-bitmap-clear': (args) => {
      clearDirtyBitmap(find(args))
    },
    'block-dirty-bitmap-enable': (args) => enableDirtyBitmap(find(args)),
    'block-dirty-bitmap-disable': (args) => disableDirtyBitmap(find(args)),
    'block-dirty-bitmap-merge': (args) => {
      mergeBitmaps(layer, args)
    },
    'x-debug-block-dirty-bitmap-sha256': (args) => {
      const bitmap = find(args)
      const { ciphers } = layer.host
      if (ciphers === undefined || !ciphers.hasHash('sha256')) {
        throw blockError('ENOTSUP', 'Hash sha256 is not available here')
      }
      const hash = ciphers.digest('sha256', bitmapWords(bitmap))
      return { sha256: [...hash].map((byte) => byte.toString(16).padStart(2, '0')).join('') }
    },
  })
}

/** `block-dirty-bitmap-add`. @throws BlockError with QEMU's text */
export async function addBitmap(
  layer: BlockLayer,
  args: TypeOf<'BlockDirtyBitmapAdd'>,
): Promise<DirtyBitmap> {
  if (args.name === '') {
    throw blockError('EINVAL', 'Bitmap name cannot be empty')
  }
  return await addDirtyBitmap(layer.lookup(args.node, args.node), args)
}

/** `block-dirty-bitmap-merge`. Returns what was there. @throws BlockError with QEMU's text */
export function mergeBitmaps(
  layer: BlockLayer,
  { node, target, bitmaps }: TypeOf<'BlockDirtyBitmapMerge'>,
): { readonly target: DirtyBitmap; readonly before: ReturnType<typeof mergeDirtyBitmaps> } {
  const into = lookupDirtyBitmap(layer, node, target)
  const sources = bitmaps.map((one) =>
    typeof one === 'string'
      ? lookupDirtyBitmap(layer, node, one)
      : lookupDirtyBitmap(layer, one.node, one.name),
  )
  return { target: into, before: mergeDirtyBitmaps(into, sources) }
}

/** Bits of the bitmap as QEMU has them in memory: words of 64 bits, little-endian, one at least. */
function bitmapWords({ bits, size }: DirtyBitmap): Uint8Array {
  const bytes = new Uint8Array(Math.max(8, size === 0 ? 0 : bits.serializedLength(0, size)))
  if (size > 0) {
    bits.serialize(0, size, bytes)
  }
  return bytes
}
