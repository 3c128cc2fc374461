import type { DriverInfo } from './driver.js'
import type { BlockNode } from './node.js'

/** The driver's general information; filters show that of the node below. Undefined: there is none. */
export function driverInfo(node: BlockNode): DriverInfo | undefined {
  if (node.state?.info !== undefined) {
    return node.state.info()
  }
  const below = node.isFilter ? node.filterNode : undefined
  return below === undefined ? undefined : driverInfo(below)
}
