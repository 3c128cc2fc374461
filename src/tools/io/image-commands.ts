import { isBlockError } from '../../errors/index.js'
import { driverInfo, Perm, truncateNode } from '../../graph/index.js'
import { BlockStatus } from '../../io/index.js'
import { treeLines } from '../tree-lines.js'
import { sizeArgument } from './arguments.js'
import { CommandFailure, type IoCommand, readOptions, usageLine } from './command.js'
import { amountText } from './text.js'

const preallocations = ['off', 'metadata', 'falloc', 'full'] as const

const truncate: IoCommand = {
  name: 'truncate',
  alias: 't',
  min: 1,
  max: 3,
  perm: Perm.write | Perm.resize,
  usage: '[-m prealloc_mode] off',
  summary: 'truncates the current file at the given offset',
  async run(session, argv) {
    let preallocation: (typeof preallocations)[number] = 'off'
    const operands = readOptions(session, truncate, argv, 'm:', ({ argument }) => {
      const known = preallocations.find((mode) => mode === argument)
      if (known === undefined) {
        session.error(`Invalid preallocation mode '${argument}'`)
        throw new CommandFailure()
      }
      preallocation = known
    })
    const [text] = operands
    if (text === undefined) {
      throw new CommandFailure(usageLine(truncate))
    }
    await truncateNode(session.image.node, sizeArgument(text), { exact: false, preallocation, zero: false })
    return undefined
  },
}

/** Where an extent of one allocation status ends: `bytes` from `offset`, which `allocated` says. */
async function extentAt(
  status: BlockStatus,
  session: Parameters<IoCommand['run']>[0],
  offset: number,
  bytes: number,
) {
  const wait = session.image.node.status(offset, bytes, 'allocation', status)
  if (wait !== undefined) {
    await wait
  }
  return { allocated: status.allocated, bytes: Math.min(status.bytes, bytes) }
}

export const imageCommands: readonly IoCommand[] = [
  truncate,
  {
    name: 'flush',
    alias: 'f',
    min: 0,
    max: 0,
    summary: 'flush all in-core file state to disk',
    async run(session) {
      await session.image.flush()
      session.deliver()
      return undefined
    },
  },
  {
    name: 'length',
    alias: 'l',
    min: 0,
    max: 0,
    summary: 'gets the length of the current file',
    run(session) {
      session.print(amountText(session.image.length))
      return undefined
    },
  },
  {
    name: 'info',
    alias: 'i',
    min: 0,
    max: 0,
    summary: 'prints information about the current file',
    async run(session) {
      const { node } = session.image
      const { driver } = node
      session.print(`format name: ${driver?.name ?? ''}`)
      if (driver?.kind === 'protocol') {
        session.print(`format name: ${driver.name}`)
      }
      const info = driverInfo(node)
      if (info === undefined) {
        throw new CommandFailure()
      }
      session.print(`cluster size: ${amountText(info.clusterSize ?? 0)}`)
      session.print(`vm state offset: ${amountText(info.vmStateOffset ?? 0)}`)
      const specific = await node.state?.specificInfo?.()
      if (specific !== undefined) {
        session.print('Format specific information:')
        session.print(treeLines(specific.data, 1).join('\n'))
      }
      return undefined
    },
  },
  {
    name: 'alloc',
    alias: 'a',
    min: 1,
    max: 2,
    usage: 'offset [count]',
    summary: 'checks if offset is allocated in the file',
    async run(session, [, offsetText = '', countText]) {
      const offset = sizeArgument(offsetText)
      const count = countText === undefined ? 512 : sizeArgument(countText)
      const end = Math.min(offset + count, Math.max(offset, session.image.length))
      const status = new BlockStatus()
      let allocated = 0
      for (let at = offset; at < end; ) {
        const extent = await extentAt(status, session, at, end - at)
        if (extent.bytes === 0) {
          break
        }
        allocated += extent.allocated ? extent.bytes : 0
        at += extent.bytes
      }
      session.print(`${allocated}/${end - offset} bytes allocated at offset ${amountText(offset)}`)
      return undefined
    },
  },
  {
    name: 'map',
    min: 0,
    max: 0,
    usage: '',
    summary: 'prints the allocated areas of a file',
    async run(session) {
      const { length } = session.image
      const status = new BlockStatus()
      const line = (start: number, bytes: number, allocated: boolean): void =>
        session.print(
          `${amountText(bytes)} (0x${bytes.toString(16)}) bytes ${allocated ? '    allocated' : 'not allocated'} ` +
            `at offset ${amountText(start)} (0x${start.toString(16)})`,
        )
      let start = 0
      let kind: boolean | undefined
      for (let at = 0; at < length; ) {
        let extent: { allocated: boolean; bytes: number }
        try {
          extent = await extentAt(status, session, at, length - at)
        } catch (error) {
          if (isBlockError(error)) {
            session.error(`Failed to get allocation status: ${session.errnoText(error)}`)
            throw new CommandFailure()
          }
          throw error
        }
        if (extent.bytes === 0) {
          break
        }
        if (kind !== undefined && kind !== extent.allocated) {
          line(start, at - start, kind)
          start = at
        }
        kind = extent.allocated
        at += extent.bytes
      }
      if (kind === undefined) {
        session.error('Unexpected end of image')
        throw new CommandFailure()
      }
      line(start, length - start, kind)
      return undefined
    },
  },
]
