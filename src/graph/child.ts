import type { Maybe, Wait } from '../sched/index.js'
import type { AioContext } from './aio-context.js'
import type { BlockNode } from './node.js'

/** What sits above an edge: a node, or a user such as a backend. */
export interface EdgeParent {
  /** Description in permission conflicts, such as `node '#block123'`. */
  readonly description: string
  /** Device name, if the parent is a device. */
  readonly deviceName?: string
  /** Holds back new requests until released as often; users of nodes only. */
  holdRequests?(): void
  releaseRequests?(): void
  /** While requests are held: settles when nothing that the user started itself is in flight. */
  quiesced?(): Wait
  /** The length of the node below has changed; users of nodes only. */
  resized?(): void
  /** The node below got (`load`) or lost a medium that can be read; users of nodes only. */
  mediumChanged?(load: boolean): void
  /** Whether the I/O of the node below may move to `context`; throws if not. Absent: never. Users of nodes only. */
  checkAioContext?(context: AioContext): void
  /** It has moved there. */
  aioContextChanged?(context: AioContext): void
  /** The node below is about to become inactive: its user stops using what that forbids, or throws. */
  inactivate?(): Maybe<void>
  /** The node below is active again. */
  activate?(): Maybe<void>
  /** Its edges do not follow when another node takes the place of theirs (jobs). */
  readonly stayAtNode?: boolean
  /** The node, if the parent is one. */
  readonly parentNode?: BlockNode
}

/** An edge of the graph: a child in its role to a parent. */
export class BlockChild {
  /** Name within the parent: `file`, `backing`, `root`, … */
  readonly name: string
  /** `Role` bits. */
  readonly role: number
  readonly parent: EdgeParent
  node: BlockNode
  /** Permissions the parent uses, and those it lets others use. */
  perm = 0
  shared = 15
  /** The edge must not be moved or removed while a job relies on it. */
  frozen = false

  constructor(name: string, role: number, parent: EdgeParent, node: BlockNode) {
    this.name = name
    this.role = role
    this.parent = parent
    this.node = node
  }
}
