import { blockError, codeOf } from '../../errors/index.js'
import type { Host } from '../../host/index.js'
import { type LuksHeader, type LuksSlot, luksSlots, luksStripes, serializeLuksHeader } from './header.js'
import { type LuksStorage, saltBytes, sealKey, unlockAny, unlockSlot } from './key-slots.js'
import { defaultIterTime, type LuksAmendOptions } from './options.js'
import type { LuksVolume } from './volume.js'

/** How often erased key material is overwritten, as by QEMU and cryptsetup. */
const eraseRounds = 40

export interface LuksAmendContext {
  readonly host: Host
  readonly storage: LuksStorage
  readonly volume: LuksVolume
  readonly options: LuksAmendOptions
  /** Do what loses access to the data. */
  readonly force: boolean
  /** Value of a secret as a password, to be wiped by the caller. @throws BlockError */
  password(id: string): Uint8Array
  /** Id of the secret that the image was opened with. */
  readonly keySecret: string | undefined
}

function invalid(message: string) {
  return blockError('EINVAL', message)
}

/**
 * Adds a key slot (`state=active`) or erases some (`state=inactive`).
 *
 * A slot's material is durable before the header says that it counts, and gone from the header before
 * it is overwritten: a crash leaves a header whose every active slot works.
 *
 * @throws BlockError with QEMU's text
 */
export async function amendLuks(context: LuksAmendContext): Promise<void> {
  if (context.options.state === 'active') {
    await addSlot(context)
  } else {
    await eraseSlots(context)
  }
}

/** @param shown the number as the message has it */
function slotAt(header: LuksHeader, index: number, shown: number): LuksSlot {
  const slot = header.slots[index]
  if (slot === undefined) {
    throw invalid(`Invalid keyslot ${shown} specified, must be between 0 and ${luksSlots - 1}`)
  }
  return slot
}

function freeSlot(header: LuksHeader): number {
  const index = header.slots.findIndex(({ active }) => !active)
  if (index < 0) {
    throw invalid("Can't add a keyslot - all keyslots are in use")
  }
  return index
}

async function addSlot(context: LuksAmendContext): Promise<void> {
  const { host, storage, volume, options, force } = context
  const { header, spec } = volume
  if (options.newSecret === undefined) {
    throw invalid("'new-secret' is required to activate a keyslot")
  }
  if (options.oldSecret !== undefined) {
    throw invalid("'old-secret' must not be given when activating keyslots")
  }
  const index = options.keySlot ?? freeSlot(header)
  const slot = slotAt(header, index, index >>> 0)
  if (slot.active && !force) {
    throw invalid(`Refusing to overwrite active keyslot ${index} - please erase it first`)
  }
  if (context.keySecret === undefined) {
    throw invalid("Parameter 'key-secret' is required for cipher")
  }
  const old = context.password(context.keySecret)
  let key: Uint8Array
  try {
    key = await unlockAny(host, storage, header, spec, old)
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error)
    throw blockError(codeOf(error), message, { hint: 'Failed to retrieve the master key', cause: error })
  } finally {
    old.fill(0)
  }
  try {
    const password = context.password(options.newSecret)
    try {
      const sealed = await sealKey(host, spec, key, password, options.iterTime ?? defaultIterTime)
      if (slot.active) {
        await setSlot(context, slot, { active: false, iterations: 0 })
      }
      await storage.write(slot.keyOffset, sealed.material)
      await storage.flush()
      const { iterations, salt } = sealed
      await setSlot(context, slot, { active: true, iterations, salt, stripes: luksStripes })
    } finally {
      password.fill(0)
    }
  } finally {
    key.fill(0)
  }
}

/** Changes a slot in the header, in memory once it is so in the image. */
async function setSlot(context: LuksAmendContext, slot: LuksSlot, change: Partial<LuksSlot>): Promise<void> {
  const { header } = context.volume
  const slots = header.slots.map((one) => (one === slot ? { ...one, ...change } : one))
  await context.storage.write(0, serializeLuksHeader({ ...header, slots }))
  await context.storage.flush()
  Object.assign(slot, change)
}

async function eraseSlots(context: LuksAmendContext): Promise<void> {
  const { options } = context
  if (options.newSecret !== undefined) {
    throw invalid("'new-secret' must not be given when erasing keyslots")
  }
  if (options.iterTime !== undefined) {
    throw invalid("'iter-time' must not be given when erasing keyslots")
  }
  const old = options.oldSecret === undefined ? undefined : context.password(options.oldSecret)
  try {
    for (const slot of await slotsToErase(context, old)) {
      await eraseSlot(context, slot)
    }
  } finally {
    old?.fill(0)
  }
}

/** Whether the slot is active and opens with the password. */
async function opensWith(context: LuksAmendContext, slot: LuksSlot, password: Uint8Array): Promise<boolean> {
  const { host, storage, volume } = context
  const key = await unlockSlot(host, storage, volume.header, volume.spec, slot, password)
  key?.fill(0)
  return key !== undefined
}

async function slotsToErase(context: LuksAmendContext, old: Uint8Array | undefined): Promise<LuksSlot[]> {
  const { header } = context.volume
  const index = context.options.keySlot
  const { force } = context
  const active = header.slots.filter((slot) => slot.active).length
  if (index !== undefined) {
    const slot = slotAt(header, index, index | 0)
    if (old !== undefined && !(await opensWith(context, slot, old))) {
      throw invalid(`Given keyslot ${index} doesn't contain the given old password for erase operation`)
    }
    if (!force && !slot.active) {
      throw invalid(`Given keyslot ${index} is already erased (inactive) `)
    }
    if (!force && active === 1) {
      throw invalid(
        `Attempt to erase the only active keyslot ${index} which will erase all the data in the image ` +
          'irreversibly - refusing operation',
      )
    }
    return [slot]
  }
  if (old === undefined) {
    throw invalid(
      'To erase keyslot(s), either explicit keyslot index or the password currently contained in them must be given',
    )
  }
  const matching: LuksSlot[] = []
  for (const slot of header.slots) {
    if (await opensWith(context, slot, old)) {
      matching.push(slot)
    }
  }
  if (matching.length === 0) {
    throw invalid('No keyslots match given (old) password for erase operation')
  }
  if (!force && matching.length === active) {
    throw invalid(
      'All the active keyslots match the (old) password that was given and erasing them will erase all the ' +
        'data in the image irreversibly - refusing operation',
    )
  }
  return matching
}

async function eraseSlot(context: LuksAmendContext, slot: LuksSlot): Promise<void> {
  const { host, storage, volume } = context
  await setSlot(context, slot, { active: false, iterations: 0, salt: new Uint8Array(saltBytes) })
  const bytes = volume.header.keyBytes * slot.stripes
  for (let round = 0; round < eraseRounds; round++) {
    await storage.write(slot.keyOffset, host.randomBytes(bytes))
    await storage.flush()
  }
}
