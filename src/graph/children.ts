import { blockError } from '../errors/index.js'
import { drain } from './drain.js'
import type { BlockNode } from './node.js'

/**
 * Makes `child`, which nobody uses yet, a further child of `parent`, if its driver takes more (quorum).
 *
 * @throws BlockError with QEMU's text
 */
export async function addChild(parent: BlockNode, child: BlockNode): Promise<void> {
  if (parent.state?.addChild === undefined) {
    throw blockError('ENOTSUP', `The node ${parent.name} does not support adding a child`)
  }
  if (child.parents.length > 0) {
    throw blockError('EINVAL', `The node ${child.name} already has a parent`)
  }
  const section = await drain([parent])
  try {
    await parent.state.addChild(child)
  } finally {
    section.end()
  }
}

/**
 * Takes the child of `parent` that is called `name` away from it.
 *
 * @throws BlockError with QEMU's text
 */
export async function removeChild(parent: BlockNode, name: string): Promise<void> {
  if (parent.state?.removeChild === undefined) {
    throw blockError('ENOTSUP', `The node ${parent.name} does not support removing a child`)
  }
  const child = parent.child(name)
  if (child === undefined) {
    throw blockError('EINVAL', `The node ${parent.name} does not have a child named ${name}`)
  }
  const section = await drain([parent])
  try {
    await parent.state.removeChild(child)
  } finally {
    section.end()
  }
}
