import { blockError } from '../../errors/index.js'
import type { SnapshotWanted } from '../../image/index.js'
import { parseOptionText } from '../../options/index.js'
import type { ImgTool } from './tool.js'

/**
 * The snapshot that `-l` names: `[ID_OR_NAME]`, or `snapshot.id=[ID],snapshot.name=[NAME]`.
 * Ends the program if the text is not understood.
 */
export function snapshotOption(tool: ImgTool, text: string): SnapshotWanted {
  if (!text.startsWith('snapshot.')) {
    return text
  }
  const wanted: { id?: string; name?: string } = {}
  for (const [name, value] of parseOptionText(text)) {
    if (name !== 'snapshot.id' && name !== 'snapshot.name') {
      tool.report(blockError('EINVAL', `Invalid parameter '${name}'`))
      tool.fail(`Failed in parsing snapshot param '${text}'`)
    }
    wanted[name === 'snapshot.id' ? 'id' : 'name'] = value
  }
  return wanted
}
