import { blockError, codeOf, errnoError } from '../../../errors/index.js'
import type { OpenContext } from '../../../graph/index.js'
import type { IoNode } from '../../../io/index.js'
import { type OptionsOf, takeOptions } from '../../../options/index.js'
import type { DiscardPolicy } from './allocate.js'
import { PersistentBitmaps } from './bitmap-store.js'
import { cacheSizes } from './cache-sizes.js'
import { headerLengthV3 } from './constants.js'
import { readPadded } from './file-read.js'
import {
  clearAutoclear,
  describeUnsupported,
  headerBytesNeeded,
  parseHeader,
  type Qcow2Header,
} from './header.js'
import { Qcow2Image } from './image.js'
import { Qcow2Metadata } from './metadata.js'
import { qcow2RuntimeOptions } from './options.js'
import { OverlapCheck, overlapTemplates, protectedStructures } from './overlap.js'
import { type Qcow2Snapshot, readSnapshotTable } from './snapshot-table.js'

type RuntimeOptions = OptionsOf<typeof qcow2RuntimeOptions>

/**
 * Opens an image: header, then L1 and refcount table, then the list of snapshots.
 *
 * With `noIo` the tables are read when they are first needed; with `check` a broken snapshot table
 * does not matter.
 *
 * @throws BlockError with QEMU's text
 */
export async function open(context: OpenContext): Promise<Qcow2Image> {
  const { node, host, flags } = context
  const file = context.file.node
  const write = flags.write && !node.readOnly
  const mode = { check: flags.check, write, noIo: flags.noIo }
  const header = parseHeader(await readHeader(file), mode)
  const unsupported = describeUnsupported(header, mode)
  if (unsupported !== undefined) {
    throw unsupported
  }
  for (const warning of header.warnings) {
    host.warn(`warning: ${warning}`)
  }
  const options = takeOptions(context.options, qcow2RuntimeOptions)
  checkOptions(options, header)
  const sizes = () => cacheSizes(options, header.size, header.clusterSize)
  const meta = new Qcow2Metadata({
    node,
    file,
    host,
    header,
    caches: sizes(),
    discards: discardPolicy(options, node.unmapAllowed),
  })
  let snapshots: readonly Qcow2Snapshot[] = []
  if (!flags.check) {
    snapshots = (await readSnapshotTable(file, header)).snapshots
  }
  if (write) {
    meta.overlap = new OverlapCheck(meta, protectedStructures(options), snapshots)
  }
  if (!flags.noIo) {
    await meta.load()
  }
  const bitmaps = new PersistentBitmaps(meta, node)
  await bitmaps.load(write, !flags.noIo)
  if (write && clearAutoclear(header)) {
    try {
      await meta.writeHeader()
    } catch (error) {
      throw errnoError(codeOf(error), 'Could not update qcow2 header', { cause: error })
    }
  }
  return new Qcow2Image(meta, context.file, snapshots, bitmaps, () => {
    const { l2Entries, l2EntryBytes, refcountEntries } = sizes()
    meta.l2.capacity = Math.floor((l2Entries * l2EntryBytes) / meta.l2.tableBytes)
    meta.blocks.capacity = refcountEntries
  })
}

/** The bytes that {@link parseHeader} wants. */
async function readHeader(file: IoNode): Promise<Uint8Array> {
  const read = async (bytes: number): Promise<Uint8Array> => {
    const into = new Uint8Array(bytes)
    try {
      const wait = readPadded(file, 0, into)
      if (wait !== undefined) {
        await wait
      }
    } catch (error) {
      throw errnoError(codeOf(error), 'Could not read qcow2 header', { cause: error })
    }
    return into
  }
  const head = await read(headerLengthV3)
  const needed = headerBytesNeeded(head)
  return needed > head.length ? await read(needed) : head
}

function checkOptions(options: RuntimeOptions, header: Qcow2Header): void {
  if (options['lazy-refcounts'] === true && header.version < 3) {
    throw blockError(
      'EINVAL',
      'Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level',
    )
  }
  const overlap = options['overlap-check']
  const template = options['overlap-check.template']
  if (overlap !== undefined && template !== undefined && overlap !== template) {
    throw blockError(
      'EINVAL',
      `Conflicting values for qcow2 options 'overlap-check' ('${overlap}') and ` +
        `'overlap-check.template' ('${template}')`,
    )
  }
  const chosen = overlap ?? template ?? 'cached'
  if (!Object.hasOwn(overlapTemplates, chosen)) {
    throw blockError(
      'EINVAL',
      `Unsupported value '${chosen}' for qcow2 option 'overlap-check'. ` +
        'Allowed are any of the following: none, constant, cached, all',
    )
  }
}

function discardPolicy(options: RuntimeOptions, unmapAllowed: boolean): DiscardPolicy {
  return {
    never: false,
    always: true,
    request: options['pass-discard-request'] ?? unmapAllowed,
    snapshot: options['pass-discard-snapshot'] ?? true,
    other: options['pass-discard-other'] ?? false,
  }
}
