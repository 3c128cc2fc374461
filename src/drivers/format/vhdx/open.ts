import { blockError } from '../../../errors/index.js'
import type { OpenContext } from '../../../graph/index.js'
import { Bat, maxTableBytes } from './bat.js'
import { SectorBitmaps } from './bitmaps.js'
import { DiskChanges } from './changes.js'
import { checkTable } from './check.js'
import { Headers } from './headers.js'
import { VhdxImage } from './image.js'
import { logSectorBytes, maxDiskBytes, regionOffsets, tableBytes, tableEntries } from './layout.js'
import { Log, readLog, replay } from './log.js'
import { type DiskParameters, isPresent, overlaps, parseMetadata, parseRegions } from './metadata.js'
import { ReplayedFile } from './overlay.js'
import { parentNameOf } from './parent.js'
import { mustReplay } from './replay-refusal.js'

/**
 * Opens a disk. A log with entries is replayed first: in the file, or only in memory if that may not be
 * written.
 *
 * @throws BlockError with QEMU's text
 */
export async function open(context: OpenContext): Promise<VhdxImage> {
  const { file, node, host, flags } = context
  let view = new ReplayedFile(file.node, [])
  const invalid = (): Error => blockError('EINVAL', 'Invalid argument')
  const signature = await view.read(0, new Uint8Array(8))
  if (String.fromCharCode(...signature) !== 'vhdxfile') {
    throw invalid()
  }
  const headers = await Headers.read(file, host, view)
  const entries = await readLog(headers, view)
  const write = !node.readOnly && flags.write && !flags.inactive
  if (entries.length !== 0) {
    if (write) {
      await replay(file, headers, entries)
    } else if (flags.check) {
      throw mustReplay(context.filename)
    } else {
      if (entries.some(({ flushedFileOffset }) => flushedFileOffset > file.node.length)) {
        throw invalid()
      }
      view = new ReplayedFile(
        file.node,
        entries.flatMap(({ writes }) => writes),
      )
    }
  }
  const { logOffset, logLength } = headers.current
  const regions = parseRegions(
    await view.read(regionOffsets[0], new Uint8Array(tableBytes)),
    { offset: logOffset, length: logLength },
    (line) => host.warn(line),
  )
  const { bat: batRegion, metadata: metadataRegion } = regions
  const disk = await parseMetadata(
    await view.read(metadataRegion.offset, new Uint8Array(tableBytes)),
    (offset, bytes) => view.read(metadataRegion.offset + offset, new Uint8Array(bytes)),
  )
  if (disk.diskBytes > maxDiskBytes) {
    throw invalid()
  }
  const count = tableEntries(disk.diskBytes, disk.blockBytes, disk.ratio, disk.parent !== undefined)
  if (count * 8 > batRegion.length) {
    throw invalid()
  }
  const wanted = Math.ceil((count * 8) / logSectorBytes) * logSectorBytes
  if (wanted > maxTableBytes) {
    throw blockError('ENOTSUP', `VHDX block tables of more than ${maxTableBytes} bytes are not supported`)
  }
  const bat = new Bat(await view.read(batRegion.offset, new Uint8Array(wanted)), count, batRegion.offset)
  const fileBytes = file.node.length
  if (!flags.check) {
    const [line] = checkTable(bat, disk, regions.all, fileBytes, true)
    if (line !== undefined) {
      host.warn(line)
      throw invalid()
    }
  }
  refuseLoggedData(bat, disk, view, invalid)
  const isReplayedInMemory = view.writes.length !== 0
  const bitmaps = disk.parent && new SectorBitmaps(file, isReplayedInMemory ? view : undefined)
  const log = new Log(file, headers)
  const metadata = bitmaps === undefined ? [bat] : [bitmaps, bat]
  const changes = new DiskChanges({ node, file, headers, log, metadata })
  node.supportsBacking = disk.parent !== undefined
  return new VhdxImage({
    node,
    file,
    bat,
    disk,
    headers,
    changes,
    bitmaps,
    regions,
    parent: disk.parent && parentOf(context, disk.parent),
    replayed: write && entries.length !== 0,
    isReplayedInMemory,
  })
}

/** Name of the parent of a differencing disk; undefined where it does not matter. */
function parentOf(context: OpenContext, pairs: ReadonlyMap<string, string>): string | undefined {
  const name = parentNameOf(context, pairs)
  const { flags, options } = context
  const isGiven = options.keys().some((key) => key === 'backing' || key.startsWith('backing.'))
  if (name === undefined && !flags.noBacking && !isGiven) {
    throw blockError('EINVAL', 'Differencing disk does not say where its parent is')
  }
  return name
}

/** Reads go to the file: guest data that is in the log only would be missed. Nobody writes such logs. */
function refuseLoggedData(bat: Bat, disk: DiskParameters, view: ReplayedFile, error: () => Error): void {
  if (view.writes.length === 0) {
    return
  }
  for (let index = 0; index < bat.entries; index++) {
    const block = { offset: bat.place(index), length: disk.blockBytes }
    if (
      index % (disk.ratio + 1) !== disk.ratio &&
      isPresent(bat.state(index)) &&
      view.writes.some(({ offset, bytes }) => overlaps(block, { offset, length: bytes }))
    ) {
      throw error()
    }
  }
}
