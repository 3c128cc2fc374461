import { blockError } from '../errors/index.js'
import type { HostThread } from '../host/index.js'
import type { BlockLayer } from './layer.js'
import type { BlockNode } from './node.js'
import type { UserObject } from './objects.js'

/**
 * Where the I/O of nodes takes place: the main event loop, or a thread of the platform that makes
 * the system calls of the protocol nodes. Decisions (metadata, graph, permissions) stay where they
 * are, so that nodes of several contexts may be used together.
 */
export class AioContext {
  readonly name: string
  /** Undefined: the event loop everything else runs on. */
  readonly thread: HostThread | undefined

  constructor(name: string, thread?: HostThread) {
    this.name = name
    this.thread = thread
  }
}

/** Someone to tell when a node changes its context. */
export interface AioNotifier {
  readonly attached: (context: AioContext, opaque: unknown) => void
  readonly detach: (opaque: unknown) => void
  readonly opaque: unknown
}

/** An I/O thread that users know by its id (`--object iothread,id=…`). */
class IoThread implements UserObject {
  readonly type = 'iothread'
  readonly id: string
  readonly context: AioContext
  readonly #layer: BlockLayer
  readonly #thread: HostThread
  /** Its properties by name; they change nothing. */
  readonly values: Readonly<Record<string, number>>

  constructor(layer: BlockLayer, id: string, thread: HostThread, values: Readonly<Record<string, number>>) {
    this.values = values
    this.#layer = layer
    this.id = id
    this.#thread = thread
    this.context = new AioContext(id, thread)
  }

  get inUse(): boolean {
    return [...this.#layer.nodes].some((node) => node.aioContext === this.context)
  }

  dispose(): void {
    // Nothing is left to be done on it; the end of an idle thread need not be waited for.
    void this.#thread.stop()
  }
}

/**
 * Starts an I/O thread and adds it to the layer's objects.
 *
 * @param values properties that users can ask for, by name
 * @throws BlockError EEXIST for an id that is taken, ENOTSUP where the platform has no threads
 */
export async function createIoThread(
  layer: BlockLayer,
  id: string,
  values: Readonly<Record<string, number>> = {},
): Promise<AioContext> {
  if (layer.host.threads === undefined) {
    throw blockError('ENOTSUP', 'This platform has no threads')
  }
  const thread = await layer.host.threads.start(id)
  const object = new IoThread(layer, id, thread, values)
  try {
    layer.objects.add(object)
  } catch (error) {
    await thread.stop()
    throw error
  }
  return object.context
}

/** The properties of an I/O thread; undefined for other objects. */
export function ioThreadValues(object: UserObject): Readonly<Record<string, number>> | undefined {
  return object instanceof IoThread ? object.values : undefined
}

/** The context of the I/O thread called `id`, if there is one. */
export function findIoThread(layer: BlockLayer, id: string): AioContext | undefined {
  const object = layer.objects.find(id)
  return object instanceof IoThread ? object.context : undefined
}

/** Has `notifier` called when the context of `node` changes; the newest is called first (seed row 117). */
export function addAioContextNotifier(node: BlockNode, notifier: AioNotifier): void {
  node.aioNotifiers.unshift({ ...notifier })
}

/**
 * Removes one notifier that was added with exactly these three (seed row 117). There being none is a
 * mistake of the program.
 */
export function removeAioContextNotifier(node: BlockNode, notifier: AioNotifier): void {
  const at = node.aioNotifiers.findIndex(
    (known) =>
      known.attached === notifier.attached &&
      known.detach === notifier.detach &&
      known.opaque === notifier.opaque,
  )
  if (at < 0) {
    throw new Error('no such AioContext notifier')
  }
  node.aioNotifiers.splice(at, 1)
}
