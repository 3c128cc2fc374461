import { blockError, codeOf, errnoError, isBlockError } from '../../../errors/index.js'
import { type OpenContext, Role } from '../../../graph/index.js'
import type { IoNode } from '../../../io/index.js'
import { takeOptions } from '../../../options/index.js'
import { TimeSlice } from '../../../sched/index.js'
import {
  decodeEntry,
  decodeSuperblock,
  EntryFlags,
  entryBytes,
  isSectorSizeValid,
  superblockBytes,
} from './format.js'
import { blklogwritesOptions } from './options.js'
import { BlklogwritesState, type LogPosition } from './state.js'

const defaultSectorSize = 512
const defaultInterval = 4096

async function read(log: IoNode, offset: number, into: Uint8Array): Promise<void> {
  const wait = log.read(offset, into.length, into, 0, 0)
  if (wait !== undefined) {
    await wait
  }
}

/** Finds the end of an existing log. An empty file is a log without entries. */
async function findEnd(log: IoNode): Promise<LogPosition> {
  if (log.length === 0) {
    return { sectorSize: defaultSectorSize, entries: 0, sector: 1 }
  }
  const head = new Uint8Array(superblockBytes)
  try {
    await read(log, 0, head)
  } catch (error) {
    throw isBlockError(error) ? errnoError(codeOf(error), 'Could not read log superblock') : error
  }
  const { entries, sectorSize } = decodeSuperblock(head)
  let sector = 1
  const bytes = new Uint8Array(entryBytes)
  const slice = new TimeSlice()
  for (let index = 0; index < entries; index++) {
    const at = sector * sectorSize
    if (!(at + entryBytes <= log.length)) {
      throw blockError('EINVAL', 'Invalid log entry')
    }
    await read(log, at, bytes)
    const entry = decodeEntry(bytes)
    // What is discarded is not in the log.
    sector += 1 + ((entry.flags & EntryFlags.discard) === 0 ? entry.sectors : 0)
    const breath = slice.breathe()
    if (breath !== undefined) {
      await breath
    }
  }
  if (!Number.isSafeInteger(sector * sectorSize)) {
    throw blockError('EINVAL', 'Invalid log entry')
  }
  return { sectorSize, entries, sector }
}

export async function open(context: OpenContext): Promise<BlklogwritesState> {
  const { node, options } = context
  const { file } = context
  const sized = options.has('log-sector-size')
  const given = takeOptions(options, blklogwritesOptions)
  const log = await context.openNamedChild('log', Role.metadata, undefined)
  const append = given['log-append'] ?? false
  if (append && sized) {
    throw blockError('EINVAL', 'log-append and log-sector-size are mutually exclusive')
  }
  const sectorSize = given['log-sector-size'] ?? defaultSectorSize
  if (!isSectorSizeValid(sectorSize)) {
    throw blockError('EINVAL', `Invalid log sector size ${sectorSize}`)
  }
  const position = append ? await findEnd(log.node) : { sectorSize, entries: 0, sector: 1 }
  const interval = given['log-super-update-interval'] ?? defaultInterval
  if (interval === 0) {
    throw blockError('EINVAL', `Invalid log superblock update interval ${interval}`)
  }
  return new BlklogwritesState(node, file, log, position, interval)
}
