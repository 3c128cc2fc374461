import { blockError, codeOf, errnoError } from '../../errors/index.js'
import {
  addBlockdev,
  addChild,
  Backend,
  chainContains,
  changeAioContext,
  changeBackingFile,
  checkNotBlocked,
  findBase,
  findIoThread,
  isBlocked,
  Perm,
  ReopenQueue,
  removeBlockdev,
  removeChild,
  setWriteThreshold,
  truncateNode,
  whileWritable,
} from '../../graph/index.js'
import type { OptionTree } from '../../options/index.js'
import type { CommandContext } from '../context.js'
import { type CommandHandlers, defineHandlers } from '../handlers.js'
import { rootBlockNode } from './snapshots.js'

/** Nodes: making, changing, removing. */
export function nodeCommands({ layer }: CommandContext): CommandHandlers {
  return defineHandlers({
    'blockdev-add': async (options) => {
      await addBlockdev(layer, options as unknown as OptionTree)
    },
    'blockdev-del': async (args) => {
      await removeBlockdev(layer, args['node-name'])
    },
    'blockdev-reopen': async ({ options }) => {
      const queue = new ReopenQueue(layer)
      for (const one of options) {
        const name = one['node-name']
        if (name === undefined) {
          throw blockError('EINVAL', 'node-name not specified')
        }
        const node = layer.findNode(name)
        if (node === undefined) {
          throw blockError('ENOENT', `Failed to find node with node-name='${name}'`)
        }
        queue.add(node, one as unknown as OptionTree, false)
      }
      await queue.run()
    },
    block_resize: async ({ device, 'node-name': nodeName, size }) => {
      const node = layer.lookup(device, nodeName)
      if (size < 0) {
        throw blockError('EINVAL', "Parameter 'size' expects a >0 size")
      }
      if (isBlocked(node, 'resize')) {
        throw blockError('EBUSY', `Device '${device ?? '(null)'}' is in use`)
      }
      const backend = new Backend(layer, { perm: Perm.resize, shared: Perm.all })
      backend.allowAioContextChange = true
      try {
        await backend.insert(node)
        await truncateNode(backend.node, size, { exact: false, preallocation: 'off', zero: false })
      } finally {
        await backend.close()
      }
    },
    'block-set-write-threshold': (args) => {
      setWriteThreshold(layer, args['node-name'], args['write-threshold'])
    },
    'change-backing-file': async (args) => {
      const top = rootBlockNode(layer, args.device)
      const image = layer.lookup(undefined, args['image-node-name'])
      if (findBase(image) === image) {
        throw blockError('EINVAL', 'not allowing backing file change on an image without a backing file')
      }
      checkNotBlocked(top, 'change')
      if (!chainContains(top, image)) {
        throw blockError('EINVAL', `'${args.device}' and image file are not in the same chain`)
      }
      const name = args['backing-file']
      await whileWritable(image, async () => {
        try {
          await changeBackingFile(image, name, image.driver?.name ?? '')
        } catch (error) {
          throw errnoError(codeOf(error), `Could not change backing file to '${name}'`, { cause: error })
        }
      })
    },
    'x-blockdev-change': async ({ parent, child, node }) => {
      const above = layer.lookup(parent, parent)
      if ((child === undefined) === (node === undefined)) {
        throw child === undefined
          ? blockError('EINVAL', 'Either child or node must be specified')
          : blockError('EINVAL', 'The parameters child and node are in conflict')
      }
      if (child !== undefined) {
        if (above.child(child) === undefined) {
          throw blockError('ENOENT', `Node '${parent}' does not have child '${child}'`)
        }
        await removeChild(above, child)
      } else {
        const below = layer.findNode(node ?? '')
        if (below === undefined) {
          throw blockError('ENOENT', `Node '${node ?? ''}' not found`)
        }
        await addChild(above, below)
      }
    },
    'x-blockdev-set-iothread': async (args) => {
      const node = layer.findNode(args['node-name'])
      if (node === undefined) {
        throw blockError('ENOENT', `Failed to find node with node-name='${args['node-name']}'`)
      }
      if (args.force !== true && node.parents.some((edge) => edge.parent.parentNode === undefined)) {
        throw blockError(
          'EBUSY',
          `Node ${args['node-name']} is associated with a BlockBackend and could be in use (use force=true to override this check)`,
        )
      }
      const context = args.iothread === null ? layer.mainContext : findIoThread(layer, args.iothread)
      if (context === undefined) {
        throw blockError('ENOENT', `Cannot find iothread ${args.iothread}`)
      }
      await changeAioContext(node, context)
    },
  })
}
