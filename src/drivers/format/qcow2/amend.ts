import { blockError, codeOf, errnoError } from '../../../errors/index.js'
import { type AmendContext, truncateNode } from '../../../graph/index.js'
import { RefcountWidth } from './amend-refcounts.js'
import { ZeroExpansion } from './amend-zero.js'
import { Autoclear, Compatible, Incompatible } from './constants.js'
import { amendEncryption, amendsEncryption } from './crypto-amend.js'
import type { Qcow2Metadata } from './metadata.js'
import type { Qcow2Snapshots } from './snapshot-operations.js'

/** What amending needs of an open image. */
export interface AmendParts {
  readonly meta: Qcow2Metadata
  readonly snapshots: Qcow2Snapshots
  /** Called after the version has changed: requests are carried out differently. */
  versionChanged(): void
}

/** What the options come to. */
interface AmendPlan {
  readonly version: 2 | 3
  readonly refcountBits: number
  readonly lazyRefcounts: boolean
  /** Bytes; undefined or 0: unchanged. */
  readonly size: number | undefined
  readonly backingFile: string | undefined
  readonly backingFormat: string | undefined
  /** Another name for the external data file; empty: none. */
  readonly dataFile: string | undefined
  readonly dataFileRaw: boolean
}

function invalid(message: string, hint?: string) {
  return blockError('EINVAL', message, hint === undefined ? {} : { hint })
}

/**
 * Changes properties of an image in place: the version up first, refcounts, lazy refcounts, size, the
 * version down last. Each step leaves a sound image, whatever becomes of the next.
 *
 * @throws BlockError with QEMU's texts
 */
export async function amend(context: AmendContext, parts: AmendParts): Promise<void> {
  const { meta } = parts
  const plan = amendPlan(context, meta)
  const encryption = amendsEncryption(meta, context)
  const progress = new AmendProgress(context, meta, plan)
  const { header } = meta
  if (plan.version > header.version) {
    progress.next()
    await upgrade(parts, progress)
  }
  if (encryption) {
    await amendEncryption(meta, context)
  }
  if (plan.refcountBits !== 2 ** header.refcountOrder) {
    if (plan.version < 3 && plan.refcountBits !== 16) {
      throw invalid(
        'Refcount widths other than 16 bits require compatibility level 1.1 or above ' +
          '(use compat=1.1 or greater)',
      )
    }
    progress.next()
    await meta.locked(() => new RefcountWidth(meta, progress.update).change(Math.log2(plan.refcountBits)))
  }
  await setDataFile(meta, plan)
  checkBacking(plan, meta)
  await setLazyRefcounts(meta, plan)
  if (plan.size !== undefined && plan.size !== 0) {
    await truncateNode(context.node, plan.size, { exact: true, preallocation: 'off', zero: false })
  }
  if (plan.version < header.version) {
    progress.next()
    await downgrade(parts, progress)
  }
}

function amendPlan(
  { options }: AmendContext,
  { header, lazyRefcounts, isExternal, isRawData }: Qcow2Metadata,
): AmendPlan {
  const text = (name: string) => (options[name] === undefined ? undefined : String(options[name]))
  const version = versionOf(text('compat'), header.version)
  const refcountBits = Number(options.refcount_bits ?? 2 ** header.refcountOrder)
  if (!(refcountBits >= 1 && refcountBits <= 64 && Number.isInteger(Math.log2(refcountBits)))) {
    throw invalid('Refcount width must be a power of two and may not exceed 64 bits')
  }
  if (options.data_file !== undefined && !isExternal) {
    throw invalid('data-file can only be set for images that use an external data file')
  }
  const dataFileRaw = options.data_file_raw === undefined ? isRawData : options.data_file_raw === true
  if (dataFileRaw && !isRawData) {
    throw invalid('data-file-raw cannot be set on existing images')
  }
  return {
    version,
    refcountBits,
    lazyRefcounts: options.lazy_refcounts === undefined ? lazyRefcounts : options.lazy_refcounts === true,
    size: options.size === undefined ? undefined : Number(options.size),
    backingFile: text('backing_file'),
    backingFormat: text('backing_fmt'),
    dataFile: text('data_file'),
    dataFileRaw,
  }
}

function versionOf(compat: string | undefined, current: 2 | 3): 2 | 3 {
  switch (compat) {
    case undefined:
      return current
    case '0.10':
    case 'v2':
      return 2
    case '1.1':
    case 'v3':
      return 3
    default:
      throw invalid(`Unknown compatibility level ${compat}`)
  }
}

function checkBacking({ backingFile, backingFormat }: AmendPlan, { header }: Qcow2Metadata): void {
  if (backingFile === undefined && backingFormat === undefined) {
    return
  }
  if (backingFile !== header.backingFile || backingFormat !== header.backingFormat) {
    throw invalid('Cannot amend the backing file', "You can use 'qemu-img rebase' instead.")
  }
}

async function upgrade(
  { meta, snapshots, versionChanged }: AmendParts,
  progress: AmendProgress,
): Promise<void> {
  progress.update(0, 2)
  await meta.locked(async () => {
    // Version 3 wants all sizes in every entry of the table, which is how it is written.
    if (meta.snapshots.some(({ extraDataBytes }) => extraDataBytes < 16)) {
      await step('Failed to update the snapshot table', () => snapshots.rewrite())
    }
    progress.update(1, 2)
    await changeHeader(meta, () => {
      meta.header.version = 3
    })
    meta.refreshGeometry()
  })
  versionChanged()
  progress.update(2, 2)
}

async function setDataFile(meta: Qcow2Metadata, { dataFile, dataFileRaw }: AmendPlan): Promise<void> {
  if (dataFile === undefined && dataFileRaw === meta.isRawData) {
    return
  }
  await meta.locked(() =>
    changeHeader(meta, () => {
      const { header } = meta
      if (dataFile !== undefined) {
        header.dataFile = dataFile === '' ? undefined : dataFile
      }
      if (!dataFileRaw) {
        header.autoclear &= ~Autoclear.dataFileRaw
      }
    }),
  )
}

async function setLazyRefcounts(meta: Qcow2Metadata, plan: AmendPlan): Promise<void> {
  const { header } = meta
  if (plan.lazyRefcounts === meta.lazyRefcounts) {
    return
  }
  if (plan.lazyRefcounts && plan.version < 3) {
    throw invalid(
      'Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)',
    )
  }
  await meta.locked(async () => {
    if (!plan.lazyRefcounts) {
      await step('Failed to make the image clean', () => meta.markClean(Incompatible.dirty))
    }
    await changeHeader(meta, () => {
      header.compatible = plan.lazyRefcounts
        ? header.compatible | Compatible.lazyRefcounts
        : header.compatible & ~Compatible.lazyRefcounts
    })
    meta.lazyRefcounts = plan.lazyRefcounts
  })
}

async function downgrade({ meta, versionChanged }: AmendParts, progress: AmendProgress): Promise<void> {
  const { header, snapshots } = meta
  const unsupported = (message: string) => blockError('ENOTSUP', message)
  if (header.refcountOrder !== 4) {
    throw unsupported('compat=0.10 requires refcount_bits=16')
  }
  if (meta.isExternal) {
    throw unsupported('Cannot downgrade an image with a data file')
  }
  // Programs of that time take the size of the guest for that of every snapshot.
  if (
    snapshots.some(({ storedVmState, diskSize }) => storedVmState > 0xffffffffn || diskSize !== header.size)
  ) {
    throw unsupported('Internal snapshots prevent downgrade of image')
  }
  await meta.locked(async () => {
    await step('Failed to make the image clean', () => meta.markClean(Incompatible.dirty))
    if (header.incompatible !== 0) {
      throw unsupported(
        `Cannot downgrade an image with incompatible features 0x${header.incompatible.toString(16)} set`,
      )
    }
    await step('Failed to turn zero into data clusters', () =>
      new ZeroExpansion(meta, progress.update).expand(),
    )
    await changeHeader(meta, () => {
      header.compatible = 0
      header.compatibleHigh = 0
      header.autoclear = 0
      header.autoclearHigh = 0
      header.version = 2
    })
    meta.refreshGeometry()
    meta.lazyRefcounts = false
  })
  versionChanged()
}

/** Writes the header with a change; if that fails it is as before. */
async function changeHeader(meta: Qcow2Metadata, change: () => void): Promise<void> {
  const { header } = meta
  const before = { ...header }
  change()
  try {
    await meta.writeHeader()
  } catch (error) {
    Object.assign(header, before)
    throw errnoError(codeOf(error), 'Failed to update the image header', { cause: error })
  }
}

async function step(text: string, body: () => Promise<void>): Promise<void> {
  try {
    await body()
  } catch (error) {
    throw errnoError(codeOf(error), text, { cause: error })
  }
}

/** Progress over several operations whose extent is known only once they begin. */
class AmendProgress {
  readonly #context: AmendContext
  readonly #operations: number
  #begun = 0
  /** Work of the operations that are complete, and of the one at hand. */
  #completed = 0
  #current = 0

  constructor(context: AmendContext, { header }: Qcow2Metadata, plan: AmendPlan) {
    this.#context = context
    this.#operations =
      (plan.version !== header.version ? 1 : 0) + (plan.refcountBits !== 2 ** header.refcountOrder ? 1 : 0)
  }

  /** Another operation begins. */
  next(): void {
    this.#begun++
    this.#completed += this.#current
    this.#current = 0
  }

  readonly update = (done: number, total: number): void => {
    this.#current = total
    // What is still to come is taken to be like what is known.
    const known = this.#completed + total
    const projected = (known * (this.#operations - this.#begun)) / this.#begun
    this.#context.progress?.(this.#completed + done, known + projected)
  }
}
