import type { BlockNode } from '../../graph/index.js'
import { createImage } from '../../image/index.js'

export interface TargetWanted {
  readonly filename: string
  /** Absent: probed. */
  readonly format?: string | undefined
  readonly nodeName?: string | undefined
  /** Make it first, as long as the source. */
  readonly create: boolean
  /** What its backing file is to be; only looked at if it is made. */
  readonly backing?: BlockNode | undefined
}

/** Opens, and makes if wanted, the image that a copy of `source` goes to. The caller owns a reference. @throws BlockError */
export async function openTarget(source: BlockNode, wanted: TargetWanted): Promise<BlockNode> {
  const { layer } = source
  const { filename, format, backing } = wanted
  if (wanted.create) {
    await createImage(layer, {
      filename,
      format,
      size: source.length,
      ...(backing === undefined
        ? {}
        : { backing: { file: backing.filename, format: backing.driver?.name ?? '' } }),
      announce: (banner) => layer.host.print?.(banner),
    })
  }
  return await layer.open(
    filename,
    {
      ...(format === undefined ? {} : { driver: format }),
      ...(wanted.nodeName === undefined ? {} : { 'node-name': wanted.nodeName }),
    },
    { write: true, unmap: false, noBacking: wanted.create },
  )
}
