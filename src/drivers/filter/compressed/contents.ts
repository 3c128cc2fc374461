import type { HostCodecs } from '../../../host/index.js'
import type { IoNode } from '../../../io/index.js'
import { bzip2Contents } from './bzip2.js'
import { gzipContents } from './gzip.js'
import type { Contents } from './start-points.js'
import { xzContents } from './xz.js'
import { zstdContents } from './zstd.js'

/**
 * Finds out what a compressed file holds.
 *
 * @param size bytes, if somebody knows; otherwise a file that does not tell is decoded once to count them
 * @returns undefined if it is not compressed in a way known here
 * @throws BlockError EIO if it is corrupt
 */
export async function findContents(
  file: IoNode,
  codecs: HostCodecs,
  size: number | undefined,
): Promise<Contents | undefined> {
  const head = new Uint8Array(16)
  await file.read(0, head.length, head, 0, 0)
  return (
    (await gzipContents(file, codecs, head, size)) ??
    (await xzContents(file, head)) ??
    (await bzip2Contents(file, head, size)) ??
    (await zstdContents(file, codecs, head))
  )
}
