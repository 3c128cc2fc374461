import { blockError, isBlockError, strerror } from '../../../errors/index.js'
import type { Backend } from '../../../graph/index.js'
import {
  openImage,
  snapshotApply,
  snapshotImage,
  snapshotInfo,
  snapshotList,
  snapshotRemove,
} from '../../../image/index.js'
import { imageOptions } from '../image-options.js'
import { snapshotTable } from '../snapshot-table.js'
import { flag, type ImageArguments, type ImgCommand, type ImgTool, valued } from '../tool.js'

interface Action {
  readonly letter: 'l' | 'a' | 'c' | 'd'
  readonly name: string
}

/** `snapshot`: lists, creates, applies and deletes internal snapshots. */
export const snapshot: ImgCommand = {
  async run(argv: readonly string[], tool: ImgTool) {
    const actions: Action[] = []
    let image: ImageArguments = {}
    const operands = await tool.readOptions(argv, {
      short: ':la:c:d:hqU',
      long: [valued('object'), flag('image-opts'), flag('force-share', 'U')],
      option: (parsed) => {
        image = imageOptions(image, parsed)
        const { option: letter, argument: name } = parsed
        if (letter === 'l' || letter === 'a' || letter === 'c' || letter === 'd') {
          if (actions.length !== 0) {
            tool.usage("Cannot mix '-l', '-a', '-c', '-d'")
          }
          actions.push({ letter, name })
        }
      },
    })
    const [filename] = operands
    if (filename === undefined || operands.length !== 1) {
      tool.usage('Expecting one image file name')
    }
    const [action] = actions
    const layer = await tool.layer()
    const write = action?.letter !== 'l'
    const backend = await openImage(layer, tool.imageSpec(filename, image), { write, unmap: true })
    try {
      return action === undefined ? 0 : await perform(action, backend, tool)
    } finally {
      await backend.close()
    }
  },
}

async function perform({ letter, name }: Action, image: Backend, tool: ImgTool): Promise<number> {
  switch (letter) {
    case 'l': {
      const snapshots = snapshotList(image)
      if (snapshots.length !== 0) {
        tool.print(['Snapshot list:', ...snapshotTable(snapshots.map(snapshotInfo))].join('\n'))
      }
      return 0
    }
    case 'c':
      return await attempt(tool, '', async () => {
        try {
          await snapshotImage(image, { name })
        } catch (error) {
          throw createError(name, error)
        }
      })
    case 'a':
      return await attempt(tool, `Could not apply snapshot '${name}': `, () => snapshotApply(image, name))
    case 'd':
      return await attempt(tool, `Could not delete snapshot '${name}': `, async () => {
        if (!(await snapshotRemove(image, name))) {
          throw blockError('ENOENT', 'snapshot not found')
        }
      })
  }
}

function createError(name: string, error: unknown): unknown {
  if (!isBlockError(error)) {
    return error
  }
  const text = `Could not create snapshot '${name}': ${error.errno} (${strerror(error.code)})`
  return blockError(error.code, text)
}

async function attempt(tool: ImgTool, prefix: string, body: () => Promise<void>): Promise<number> {
  try {
    await body()
    return 0
  } catch (error) {
    tool.report(error, prefix)
    return 1
  }
}
