import { blockError } from '../../../errors/index.js'
import { chooseDisk, readOva, type TarMember } from '../../../formatkit/ova/index.js'
import { applyAutoReadOnly, type DriverState, type OpenContext, Role } from '../../../graph/index.js'
import { type DirectPath, ExtentFlags, type ExtentSink, type IoNode } from '../../../io/index.js'
import { takeOptions } from '../../../options/index.js'
import type { Wait } from '../../../sched/index.js'
import { ovaOptions } from './options.js'

export async function open(context: OpenContext): Promise<DriverState> {
  applyAutoReadOnly(context, 'A disk in a package cannot be written to')
  const given = takeOptions(context.options, ovaOptions)
  const file = await context.openNamedChild('file', Role.data | Role.primary, given['x-file'])
  const { member, compression } = chooseDisk(await readOva(file.node, context.host), given.disk)
  if (compression !== undefined && compression !== 'identity') {
    throw blockError('ENOTSUP', `'${member.name}' is compressed with ${compression} in the package`)
  }
  return new PackagedFile(file.node, member)
}

/** A member of an archive, as a file. */
class PackagedFile implements DriverState, DirectPath {
  readonly direct: DirectPath = this
  readonly length: number
  readonly #file: IoNode
  readonly #start: number

  constructor(file: IoNode, member: TarMember) {
    this.#file = file
    this.#start = member.offset
    this.length = member.bytes
  }

  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    // The node is a whole number of sectors long; what follows in the archive is not of this file.
    const inside = Math.max(0, Math.min(bytes, this.length - offset))
    buffer.fill(0, bufferOffset + inside, bufferOffset + bytes)
    return inside === 0 ? undefined : this.#file.read(this.#start + offset, inside, buffer, bufferOffset, 0)
  }

  status(offset: number, bytes: number, _want: 'zero' | 'allocation', out: ExtentSink): Wait {
    out.data(bytes, this.#file, this.#start + offset, ExtentFlags.raw)
    return undefined
  }

  close(): Wait {
    return undefined
  }
}
