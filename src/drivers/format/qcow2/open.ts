import { blockError, codeOf, errnoError } from '../../../errors/index.js'
import {
  type BlockChild,
  type CheckFailure,
  type CheckResult,
  type OpenContext,
  Role,
} from '../../../graph/index.js'
import type { Host } from '../../../host/index.js'
import type { IoNode } from '../../../io/index.js'
import { PersistentBitmaps } from './bitmap-store.js'
import { Incompatible } from './constants.js'
import { openCrypto } from './crypto.js'
import { readPadded } from './file-read.js'
import {
  clearAutoclear,
  headerBytesNeeded,
  parseHeader,
  type Qcow2Header,
  usualHeaderBytes,
} from './header.js'
import { Qcow2Image } from './image.js'
import { Qcow2Metadata } from './metadata.js'
import { OverlapCheck } from './overlap.js'
import { reload } from './reload.js'
import { runtimeSettings } from './settings.js'
import { readSnapshotTable } from './snapshot-table.js'

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
  for (const warning of header.warnings) {
    host.warn(`warning: ${warning}`)
  }
  const settings = runtimeSettings(context.options, header, node.unmapAllowed)
  const crypto = await openCrypto(context.layer, node, file, header, settings.encrypt, flags.noIo)
  const dataFile = await openDataFile(context, header)
  const meta = new Qcow2Metadata({
    dataFile,
    crypto,
    node,
    file: context.file,
    host,
    header,
    caches: settings.caches(),
    discards: settings.discards,
    emit: (data) => {
      const user = [...context.layer.backends].find((backend) => backend.root?.node === node)
      context.layer.events.emit('BLOCK_IMAGE_CORRUPTED', {
        device: user?.name ?? '',
        'node-name': node.name,
        ...data,
      })
    },
  })
  meta.lazyRefcounts = settings.lazyRefcounts
  meta.discardNoUnref = settings.discardNoUnref
  if (!flags.check) {
    const table = await readSnapshotTable(file, header)
    meta.snapshots.push(...table.snapshots)
    meta.snapshotTableBytes = table.bytes
  }
  if (write) {
    meta.overlap = new OverlapCheck(meta, settings.protectedStructures)
  }
  // Those who debug want to see the tables read, as in QEMU.
  if (!flags.noIo || file.debug !== undefined) {
    await meta.load()
  }
  const bitmaps = new PersistentBitmaps(meta, node)
  if (!flags.inactive) {
    await bitmaps.load(write, !flags.noIo)
  }
  // What was warned of, bitmaps that nobody kept up to date, is not among the extensions any more.
  if (write && !flags.inactive && (clearAutoclear(header) || header.warnings.length !== 0)) {
    try {
      await meta.writeHeader()
    } catch (error) {
      throw errnoError(codeOf(error), 'Could not update qcow2 header', { cause: error })
    }
  }
  const image = new Qcow2Image(meta, context.file, settings, bitmaps)
  image.reload = () => reload(context, open)
  if (write && !flags.check && !flags.inactive && meta.isDirty) {
    await repairDirty(image, host)
  }
  meta.cleaner.start(settings.cacheCleanInterval)
  return image
}

/**
 * The file that holds the guest data, if that is not this one: the one the options name, or the one the
 * image does. Who only looks at metadata does without.
 *
 * @throws EINVAL with QEMU's text if there is none, or one that the image does not have
 */
async function openDataFile(context: OpenContext, header: Qcow2Header): Promise<BlockChild | undefined> {
  const { options, flags } = context
  if (flags.noIo) {
    options.takeSubtree('data-file.')
    options.delete('data-file')
    return undefined
  }
  const given = await context.openChild('data-file', Role.data, true)
  if ((header.incompatible & Incompatible.dataFile) === 0) {
    if (given !== undefined) {
      throw blockError('EINVAL', "'data-file' can only be set for images with an external data file")
    }
    return undefined
  }
  if (given !== undefined) {
    return given
  }
  if (header.dataFile === undefined) {
    throw blockError('EINVAL', "'data-file' is required for this image")
  }
  return await context.openImplicitChild('data-file', Role.data, header.dataFile)
}

/** Brings the refcounts of an image up to date that was not closed. Messages go to the user. */
async function repairDirty(image: Qcow2Image, host: Host): Promise<void> {
  const tell = (result: CheckResult) => {
    for (const line of result.messages) {
      host.warn(line)
    }
  }
  let errors: number
  try {
    const result = await image.check({ leaks: true, errors: true })
    tell(result)
    errors = result.checkErrors
  } catch (error) {
    const failure = error instanceof Error ? (error.cause as Partial<CheckFailure> | undefined) : undefined
    if (failure?.partial !== undefined) {
      tell(failure.partial)
    }
    throw errnoError(codeOf(error), 'Could not repair dirty image', { cause: error })
  }
  if (errors !== 0) {
    throw errnoError('EIO', 'Could not repair dirty image')
  }
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
  const head = await read(usualHeaderBytes)
  const needed = headerBytesNeeded(head)
  return needed > head.length ? await read(needed) : head.subarray(0, needed)
}
