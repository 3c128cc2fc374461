import { blockError } from '../../../errors/index.js'
import type { OpenContext } from '../../../graph/index.js'
import { Bat, maxTableBytes } from './bat.js'
import { checkTable } from './check.js'
import { Headers } from './headers.js'
import { VhdxImage } from './image.js'
import { logSectorBytes, maxDiskBytes, regionOffsets, tableBytes, tableEntries } from './layout.js'
import { Log, readLog, replay } from './log.js'
import { isPresent, overlaps, parseMetadata, parseRegions } from './metadata.js'
import { ReplayedFile } from './overlay.js'
import { VhdxPath } from './path.js'

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
      throw mustReplay(context)
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
  const { bat: batRegion, metadata } = regions
  const disk = await parseMetadata(
    await view.read(metadata.offset, new Uint8Array(tableBytes)),
    (offset, bytes) => view.read(metadata.offset + offset, new Uint8Array(bytes)),
  )
  if (disk.diskBytes > maxDiskBytes) {
    throw invalid()
  }
  const count = tableEntries(disk.diskBytes, disk.blockBytes, disk.ratio)
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
  refuseLoggedData(bat, disk.blockBytes, view, invalid)
  const log = new Log(file, headers)
  const path = new VhdxPath({ owner: node, file, headers, log, bat, disk })
  return new VhdxImage({
    node,
    file,
    bat,
    disk,
    path,
    regions: regions.all,
    replayed: write && entries.length !== 0,
  })
}

/** Reads go to the file: guest data that is in the log only would be missed. Nobody writes such logs. */
function refuseLoggedData(bat: Bat, blockBytes: number, view: ReplayedFile, error: () => Error): void {
  if (view.writes.length === 0) {
    return
  }
  for (let index = 0; index < bat.entries; index++) {
    const block = { offset: bat.place(index), length: blockBytes }
    if (
      isPresent(bat.state(index)) &&
      view.writes.some(({ offset, bytes }) => overlaps(block, { offset, length: bytes }))
    ) {
      throw error()
    }
  }
}

function mustReplay({ filename }: OpenContext): Error {
  return blockError(
    'EPERM',
    `VHDX image file '${filename ?? ''}' opened read-only, but contains a log that needs to be replayed`,
    { hint: `To replay the log, run:\nqemu-img check -r all '${filename ?? ''}'` },
  )
}
