import { blockError } from '../../../errors/index.js'

/** What QEMU says of a disk whose log cannot be replayed because it may not be written to. */
export function mustReplay(filename: string | undefined): Error {
  return blockError(
    'EPERM',
    `VHDX image file '${filename ?? ''}' opened read-only, but contains a log that needs to be replayed`,
    { hint: `To replay the log, run:\nqemu-img check -r all '${filename ?? ''}'` },
  )
}
