import { expect, test } from 'vitest'
import {
  Backend,
  type BlockDriver,
  type BlockEvent,
  changeMedium,
  closeTray,
  type DeviceOps,
  ejectDevice,
  ejectMedium,
  insertMedium,
  isInserted,
  isSnapshot,
  lockMedium,
  mediumChanged,
  openTray,
  Perm,
  removeMedium,
} from '../../src/graph/index.js'
import { failure, memoryLayer, pattern } from './fixtures.js'

/** A drive that notes what is done with it. */
function driveDriver(log: string[]): BlockDriver {
  return {
    name: 'drive',
    kind: 'protocol',
    options: {},
    load: () => ({
      open: () => ({
        length: 512,
        inserted: true,
        direct: {
          read: (_offset, bytes, buffer, at) => {
            buffer.fill(1, at, at + bytes)
            return undefined
          },
        },
        medium: {
          eject: (open) => {
            log.push(open ? 'open' : 'close')
            return undefined
          },
          lock: async (locked) => {
            log.push(locked ? 'lock' : 'unlock')
          },
          changed: () => true,
        },
        close: () => undefined,
      }),
    }),
  }
}

function setup() {
  const log: string[] = []
  const made = memoryLayer({ drivers: [driveDriver(log)] })
  for (const [path, seed] of [
    ['/a', 1],
    ['/b', 2],
  ] as const) {
    made.host.put(path, pattern(512, seed))
  }
  const events: BlockEvent[] = []
  made.layer.events.on((event) => events.push(event))
  return { ...made, log, events }
}

/** A CD drive as a guest sees it. */
class Tray implements DeviceOps {
  open = false
  locked = false
  refuse = false
  readonly requests: boolean[] = []
  readonly loads: boolean[] = []
  isTrayOpen = (): boolean => this.open
  isMediumLocked = (): boolean => this.locked
  ejectRequest = (force: boolean): void => {
    this.requests.push(force)
  }
  changeMedia = (load: boolean): void => {
    if (load && this.refuse) {
      throw new Error('the drive does not like it')
    }
    this.loads.push(load)
    this.open = !load
  }
}

test('row 112: a medium is there if the driver says so, else if all children have one', async () => {
  const { layer } = setup()
  let inserted = true
  const removable: BlockDriver = {
    ...driveDriver([]),
    name: 'removable',
    load: () => ({
      open: () => ({
        length: 512,
        get inserted() {
          return inserted
        },
        close: () => undefined,
      }),
    }),
  }
  const made = memoryLayer({ drivers: [removable] })
  const node = await made.layer.open(undefined, { driver: 'raw', file: { driver: 'removable' } })
  expect(isInserted(node)).toBe(true)
  inserted = false
  expect(isInserted(node)).toBe(false)
  await made.layer.unref(node)
  expect(isInserted(node)).toBe(false)
  await layer.closeAll()
})

test('row 112: whether the medium was changed, its tray and its lock are the driver of the node', async () => {
  const { layer, log } = setup()
  const drive = await layer.open(undefined, { driver: 'drive' })
  const file = await layer.open('/a', { driver: 'raw' })
  expect([mediumChanged(drive), mediumChanged(file)]).toEqual([true, undefined])
  await ejectMedium(drive, true)
  await lockMedium(drive, true)
  await ejectMedium(drive, false)
  await ejectMedium(file, true)
  await lockMedium(file, true)
  expect(log).toEqual(['open', 'lock', 'close'])
  await layer.unref(drive)
  await layer.unref(file)
  expect(mediumChanged(drive)).toBeUndefined()
})

test('row 112: ejecting is told exactly if the node belongs to a device with a name', async () => {
  const { layer, events } = setup()
  const drive = await layer.open(undefined, { driver: 'drive' })
  const anonymous = new Backend(layer, { perm: Perm.consistentRead })
  await anonymous.insert(drive)
  await ejectMedium(drive, true)
  await anonymous.eject(true)
  expect(events).toEqual([])
  await anonymous.close()
  const named = new Backend(layer, { name: 'cd0', perm: Perm.consistentRead })
  await named.insert(drive)
  await ejectMedium(drive, true)
  await named.eject(false)
  await named.lockMedium(true)
  expect(events).toEqual([
    { event: 'DEVICE_TRAY_MOVED', data: { device: 'cd0', id: '', 'tray-open': true } },
    { event: 'DEVICE_TRAY_MOVED', data: { device: 'cd0', id: '', 'tray-open': false } },
  ])
  await layer.unref(drive)
  await layer.closeAll()
})

test('row 112: media are exchanged while the tray is open; requests find no medium then', async () => {
  const { layer, events } = setup()
  const tray = new Tray()
  const cd = await Backend.open(layer, '/a', { driver: 'raw' }, {}, { name: 'cd0' })
  cd.device.attach({ id: 'ide0', ops: tray })
  const other = await layer.open('/b', { driver: 'raw', 'node-name': 'other' })
  const buffer = new Uint8Array(512)
  await cd.read(0, 512, buffer)
  expect(buffer).toEqual(pattern(512, 1))
  expect(await failure(() => removeMedium(layer, { id: 'ide0' }))).toEqual({
    code: 'EBUSY',
    message: "Tray of device 'ide0' is not open",
  })
  openTray(layer, { device: 'cd0' })
  expect((await failure(() => cd.read(0, 512, buffer))).code).toBe('ENOMEDIUM')
  expect((await failure(() => insertMedium(layer, { id: 'ide0' }, 'other'))).message).toBe(
    'There already is a medium in the device',
  )
  await removeMedium(layer, { id: 'ide0' })
  await removeMedium(layer, { id: 'ide0' })
  expect((await failure(() => insertMedium(layer, { id: 'ide0' }, 'gone'))).message).toBe(
    "Node 'gone' not found",
  )
  await insertMedium(layer, { id: 'ide0' }, 'other')
  closeTray(layer, { id: 'ide0' })
  await cd.read(0, 512, buffer)
  expect(buffer).toEqual(pattern(512, 2))
  expect(tray.loads).toEqual([false, true])
  expect(events.map(({ event, data }) => [event, data['tray-open'], data.id])).toEqual([
    ['DEVICE_TRAY_MOVED', true, 'ide0'],
    ['DEVICE_TRAY_MOVED', false, 'ide0'],
  ])
  const second = new Backend(layer, { name: 'cd1', perm: 0 })
  expect((await failure(() => insertMedium(layer, { device: 'cd1' }, 'other'))).message).toBe(
    "Node 'other' is already in use",
  )
  await second.close()
  await layer.unref(other)
  await layer.closeAll()
})

test('row 112: a locked tray is opened by the guest, which is asked to, or by force', async () => {
  const { layer } = setup()
  const tray = new Tray()
  tray.locked = true
  const cd = await Backend.open(layer, '/a', { driver: 'raw' }, {}, { name: 'cd0' })
  cd.device.attach({ id: 'ide0', ops: tray })
  openTray(layer, { device: 'cd0' })
  expect([tray.open, tray.requests]).toEqual([false, [false]])
  expect((await failure(() => ejectDevice(layer, { device: 'cd0' }))).message).toBe(
    "Device 'cd0' is locked and force was not specified, wait for tray to open and try again",
  )
  await ejectDevice(layer, { device: 'cd0' }, true)
  expect([tray.open, tray.requests, cd.root]).toEqual([true, [false, false, true], undefined])
  expect((await failure(() => cd.read(0, 1, new Uint8Array(1)))).code).toBe('ENOMEDIUM')
  await layer.closeAll()
})

test('row 112: changing the medium keeps its mode unless told otherwise', async () => {
  const { layer } = setup()
  const tray = new Tray()
  const cd = await Backend.open(layer, '/a', { driver: 'raw' }, { write: true }, { name: 'cd0' })
  cd.device.attach({ id: 'ide0', ops: tray })
  await changeMedium(layer, { id: 'ide0' }, '/b', { format: 'raw' })
  expect([cd.node.flags.write, tray.open, tray.loads]).toEqual([true, false, [false, true]])
  await cd.setPermissions(Perm.consistentRead, Perm.all)
  await changeMedium(layer, { id: 'ide0' }, '/a', { format: 'raw', readOnly: 'read-only' })
  expect(cd.node.readOnly).toBe(true)
  expect((await failure(() => changeMedium(layer, { id: 'ide0' }, '/gone'))).code).toBe('ENOENT')
  const buffer = new Uint8Array(512)
  await cd.read(0, 512, buffer)
  expect(buffer).toEqual(pattern(512, 1))
  await layer.closeAll()
  expect(layer.nodes.size).toBe(0)
})

test('row 112: devices without trays, without removable media, and no device at all', async () => {
  const { layer } = setup()
  const loads: boolean[] = []
  let refuse = false
  const floppy = await Backend.open(layer, '/a', { driver: 'raw' }, {}, { name: 'fd0' })
  const slot: DeviceOps = {
    changeMedia: (load) => {
      if (load && refuse) {
        throw new Error('does not fit')
      }
      loads.push(load)
    },
  }
  floppy.device.attach({ id: 'floppy', ops: slot })
  const node = await layer.open('/b', { driver: 'raw', 'node-name': 'b' })
  openTray(layer, { device: 'fd0' })
  closeTray(layer, { device: 'fd0' })
  await ejectDevice(layer, { device: 'fd0' })
  refuse = true
  expect((await failure(() => insertMedium(layer, { device: 'fd0' }, 'b'))).message).toBe('does not fit')
  expect([floppy.root, node.references]).toEqual([undefined, 1])
  refuse = false
  await insertMedium(layer, { device: 'fd0' }, 'b')
  expect(loads).toEqual([false, true])
  const disk = await Backend.open(layer, '/a', { driver: 'raw' }, {}, { name: 'hd0' })
  disk.device.attach({ id: 'disk', ops: {} })
  for (const run of [
    () => openTray(layer, { device: 'hd0' }),
    () => closeTray(layer, { device: 'hd0' }),
    () => removeMedium(layer, { device: 'hd0' }),
  ]) {
    expect(await failure(run)).toEqual({ code: 'ENOTSUP', message: "Device 'hd0' is not removable" })
  }
  const missing = await failure(() => openTray(layer, { id: 'none' }))
  expect(missing).toEqual({ code: 'ENODEV', message: "Device 'none' not found" })
  await layer.unref(node)
  await layer.closeAll()
})

test('row 114: a node is a snapshot as long as its flags say so; opening uses the flag up', async () => {
  const { layer } = setup()
  const plain = await layer.open('/a', { driver: 'raw' })
  const overlay = await layer.open('/a', { driver: 'raw' }, { snapshot: true })
  expect([plain, overlay, overlay.backing].map((node) => node && isSnapshot(node))).toEqual([
    false,
    false,
    false,
  ])
  overlay.flags.snapshot = true
  expect([isSnapshot(overlay), isSnapshot(plain)]).toEqual([true, false])
  await layer.unref(plain)
  await layer.unref(overlay)
})
