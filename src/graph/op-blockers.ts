import { blockError } from '../errors/index.js'
import type { BlockNode } from './node.js'

/** Operations that can be blocked on a node (seed row 111). */
export const blockableOperations = [
  'backup-source',
  'backup-target',
  'change',
  'commit-source',
  'commit-target',
  'dataplane',
  'drive-del',
  'eject',
  'external-snapshot',
  'internal-snapshot',
  'internal-snapshot-delete',
  'mirror-source',
  'mirror-target',
  'resize',
  'stream',
  'replace',
] as const

export type BlockableOperation = (typeof blockableOperations)[number]

/** Why something is blocked. Compared by identity: unblocking takes the object that blocked. */
export interface BlockReason {
  readonly message: string
}

/** The operations blocked on one node, each with a stack of reasons. */
export class OpBlockers {
  readonly #reasons = new Map<BlockableOperation, BlockReason[]>()

  block(operation: BlockableOperation, reason: BlockReason): void {
    const list = this.#reasons.get(operation) ?? []
    list.push(reason)
    this.#reasons.set(operation, list)
  }

  blockAll(reason: BlockReason, except: readonly BlockableOperation[] = []): void {
    for (const operation of blockableOperations) {
      if (!except.includes(operation)) {
        this.block(operation, reason)
      }
    }
  }

  /** Removes what exactly this reason object blocked. */
  unblock(operation: BlockableOperation, reason: BlockReason): void {
    const left = (this.#reasons.get(operation) ?? []).filter((other) => other !== reason)
    if (left.length === 0) {
      this.#reasons.delete(operation)
    } else {
      this.#reasons.set(operation, left)
    }
  }

  unblockAll(reason: BlockReason): void {
    for (const operation of blockableOperations) {
      this.unblock(operation, reason)
    }
  }

  /** The most recent reason, if the operation is blocked. */
  reason(operation: BlockableOperation): BlockReason | undefined {
    return this.#reasons.get(operation)?.at(-1)
  }

  get isEmpty(): boolean {
    return this.#reasons.size === 0
  }
}

export function isBlocked(node: BlockNode, operation: BlockableOperation): boolean {
  return node.opBlockers.reason(operation) !== undefined
}

/** Throws EBUSY if `operation` is blocked on `node`. */
export function checkNotBlocked(node: BlockNode, operation: BlockableOperation): void {
  const reason = node.opBlockers.reason(operation)
  if (reason !== undefined) {
    throw blockError('EBUSY', `Node '${deviceOrNodeName(node)}' is busy: ${reason.message}`)
  }
}

/** Name of the device on `node`, or of the node itself (seed row 86). */
export function deviceOrNodeName(node: BlockNode): string {
  const device = deviceName(node)
  return device === '' ? node.name : device
}

/** Name of the first named device on `node`, or empty. */
export function deviceName(node: BlockNode): string {
  for (const edge of node.parents) {
    const name = edge.parent.deviceName
    if (name !== undefined && name !== '') {
      return name
    }
  }
  return ''
}
