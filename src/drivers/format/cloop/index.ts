import type { BlockDriver } from '../../../graph/index.js'

/** How a compressed loop image of version 2.0 starts: a shell script that mounts it. */
const script = new TextEncoder().encode(
  '#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n',
)

/** Compressed loop images: zlib blocks behind a table of offsets, read-only. */
export const cloop: BlockDriver = {
  name: 'cloop',
  kind: 'format',
  options: {},
  // A file too short to hold the script is judged by what it has.
  probe: (head) =>
    head.length > 0 && script.subarray(0, head.length).every((byte, i) => head[i] === byte) ? 2 : 0,
  load: () => import('./module.js'),
}
