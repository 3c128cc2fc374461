import { expect, test } from 'vitest'
import { allDrivers } from '../all-drivers.js'
import { createNodeHost } from '../platform/node/index.js'
import { MemoryHost } from '../testing/index.js'
import { Backend } from './backend.js'
import { Perm } from './flags.js'
import { createBlockLayer } from './layer.js'
import { reopenSetReadOnly } from './reopen.js'

/** Changes of permissions that overlap in time must come out as if one had waited for the other. */
test('users that come, change and go at the same time leave exactly the locks of those that stay', async () => {
  const host = new MemoryHost({ codecs: createNodeHost().codecs })
  host.put('/a', new Uint8Array(65536))
  const layer = createBlockLayer({ host, drivers: allDrivers })
  const locked = (): number[] =>
    [...new Set((host.contents('/a')?.locks ?? []).map(({ start }) => start))].sort()
  const node = await layer.open('/a', { driver: 'raw', 'auto-read-only': true }, { write: true })
  const users = await Promise.all(
    Array.from({ length: 12 }, async (_, i) => {
      const user = new Backend(layer, {
        perm: i % 3 === 0 ? Perm.consistentRead | Perm.write : Perm.consistentRead,
        shared: Perm.all,
      })
      await user.insert(node)
      return user
    }),
  )
  expect(locked()).toEqual([100, 101])
  await Promise.all(users.map((user, i) => (i === 3 ? undefined : user.close())))
  expect(locked()).toEqual([100, 101])
  const last = users[3]
  await Promise.all([
    last?.setPermissions(Perm.consistentRead, Perm.all),
    reopenSetReadOnly(node, true).catch(() => undefined),
    last?.setPermissions(0, Perm.all),
  ])
  expect(locked()).toEqual([])
  await last?.close()
  await layer.unref(node)
  expect([layer.nodes.size, locked()]).toEqual([0, []])
})
