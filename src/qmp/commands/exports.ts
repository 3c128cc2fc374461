import type { CommandContext } from '../context.js'
import { defineHandlers } from '../handlers.js'
import type { TypeOf } from '../schema/types.js'

/** The address of `nbd-server-start`, without its wrapper. */
function flatAddress(addr: TypeOf<'SocketAddressLegacy'>): TypeOf<'SocketAddress'> {
  return { type: addr.type, ...addr.data } as TypeOf<'SocketAddress'>
}

/** Exports and the NBD server. */
export function exportCommands({ exports }: CommandContext) {
  return defineHandlers({
    'nbd-server-start': async (args) =>
      await exports.startNbdServer({ ...args, addr: flatAddress(args.addr) }),
    'nbd-server-stop': async () => await exports.stopNbdServer(),
    'nbd-server-add': async (args) => {
      await exports.addByDevice(args)
    },
    'nbd-server-remove': async ({ name, mode }) => await exports.remove(name, mode === 'hard'),
    'block-export-add': async (args) => {
      await exports.add(args)
    },
    'block-export-del': async ({ id, mode }) => await exports.remove(id, mode === 'hard'),
    'query-block-exports': () =>
      exports.list().map((one) => ({
        id: one.id,
        type: one.type,
        'node-name': one.served.backend.root?.node.name ?? '',
        'shutting-down': one.shuttingDown,
      })),
  })
}
