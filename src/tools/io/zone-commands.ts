import { appendToZone, manageZones, Perm, reportZones } from '../../graph/index.js'
import type { ZoneOperation } from '../../host/index.js'
import { sizeArgument, vectorLength } from './arguments.js'
import { CommandFailure, type IoCommand, readOptions, usageLine } from './command.js'
import { writeFill } from './request-commands.js'
import type { IoSession } from './session.js'

// The commands for zoned devices, as releases from 8.1 on have them.

const sectorBytes = 512

function sectors(bytes: number): string {
  return `0x${Math.floor(bytes / sectorBytes).toString(16)}`
}

function failure(session: IoSession, what: string, error: unknown): CommandFailure {
  return new CommandFailure(`zone ${what} failed: ${session.errnoText(error)}`)
}

const zoneReport: IoCommand = {
  name: 'zone_report',
  alias: 'zrp',
  min: 2,
  max: 2,
  usage: 'offset number',
  summary: 'report zone information',
  run(session, [, offsetText = '', countText = '']) {
    const offset = sizeArgument(offsetText)
    const count = sizeArgument(countText)
    if (count > 0xffffffff) {
      throw new CommandFailure('Number of zones must be less than 2^32')
    }
    try {
      for (const zone of reportZones(session.image.node, offset, count)) {
        session.print(
          `start: ${sectors(zone.start)}, len ${sectors(zone.length)}, cap ${sectors(zone.capacity)}, ` +
            `wptr ${sectors(zone.writePointer)}, zcond:${zone.condition}, [type: ${zone.type}]`,
        )
      }
    } catch (error) {
      throw failure(session, 'report', error)
    }
    return undefined
  },
}

function manageCommand(operation: ZoneOperation, alias: string, summary: string): IoCommand {
  return {
    name: `zone_${operation}`,
    alias,
    min: 2,
    max: 2,
    usage: 'offset len',
    summary,
    async run(session, [, offsetText = '', lengthText = '']) {
      const offset = sizeArgument(offsetText)
      const bytes = sizeArgument(lengthText)
      try {
        await manageZones(session.image.node, operation, offset, bytes)
      } catch (error) {
        throw failure(session, operation, error)
      }
      return undefined
    },
  }
}

const zoneAppend: IoCommand = {
  name: 'zone_append',
  alias: 'zap',
  min: 2,
  max: -1,
  perm: Perm.write,
  usage: '[-p] offset len [len..]',
  summary: 'append write a number of bytes at a specified offset',
  async run(session, argv) {
    let tellPlace = false
    const [offsetText, ...lengths] = readOptions(session, zoneAppend, argv, 'p', () => {
      tellPlace = true
    })
    if (offsetText === undefined || lengths.length === 0) {
      throw new CommandFailure(usageLine(zoneAppend))
    }
    const offset = sizeArgument(offsetText)
    const bytes = vectorLength(lengths)
    let place: number
    try {
      place = await appendToZone(session.image.node, offset, bytes, new Uint8Array(bytes).fill(writeFill))
    } catch (error) {
      throw failure(session, 'append', error)
    }
    if (tellPlace) {
      session.print(`After zap done, the append sector is ${sectors(place)}`)
    }
    return undefined
  },
}

export const zoneCommands: readonly IoCommand[] = [
  zoneReport,
  manageCommand('open', 'zo', 'explicit open a range of zones in zone block device'),
  manageCommand('close', 'zc', 'close a range of zones in zone block device'),
  manageCommand('finish', 'zf', 'finish a range of zones in zone block device'),
  manageCommand('reset', 'zrs', 'reset a zone write pointer in zone block device'),
  zoneAppend,
]
