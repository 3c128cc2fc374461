import { isBlockError, prefixed } from '../../../errors/index.js'
import { type OpenContext, Role } from '../../../graph/index.js'
import { takeOptions } from '../../../options/index.js'
import { noSections, parseConfig, takeSections } from './config.js'
import { checkLimits, limitNames } from './limits.js'
import { blkdebugOptions, sectionNames } from './options.js'
import { takePermissionList } from './permissions.js'
import { Rules } from './rules.js'
import { BlkdebugState } from './state.js'

/** Largest configuration file, bytes. */
const maxConfigBytes = 1 << 20

function readConfig({ host }: OpenContext, path: string): string {
  try {
    return new TextDecoder().decode(host.files.readWhole(path, maxConfigBytes))
  } catch (error) {
    throw isBlockError(error) ? prefixed(error, 'Could not read blkdebug config file: ') : error
  }
}

export async function open(context: OpenContext): Promise<BlkdebugState> {
  const { node, options } = context
  const plain = !options
    .keys()
    .some((key) => limitNames.includes(key) || sectionNames.some((name) => key.startsWith(`${name}.`)))
  const given = takeOptions(options, blkdebugOptions)
  const sections = noSections()
  if (given.config !== undefined) {
    parseConfig(readConfig(context, given.config), sections)
  }
  takeSections(options, sections)
  const rules = new Rules()
  rules.addSections(sections)
  const takePermissions = takePermissionList(options, 'take-child-perms')
  const unsharePermissions = takePermissionList(options, 'unshare-child-perms')
  const image = await context.openNamedChild('image', Role.filtered | Role.primary, given['x-image'])
  return new BlkdebugState(node, image, rules, {
    limits: checkLimits(given, image.node.limits.requestAlignment),
    takePermissions,
    unsharePermissions,
    config: given.config ?? '',
    plain,
  })
}
