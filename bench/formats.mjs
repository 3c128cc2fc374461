// Formats beside QEMU: 512 MiB without holes, into and out of each.
import { rmSync } from 'node:fs'
import { image } from './images.mjs'
import { commandPair } from './measure.mjs'

const wanted = 1.2

function convert(from, source, to, ...more) {
  const target = `out.${to}`
  return () =>
    commandPair(['convert', ...more, '-f', from, '-O', to, image(source), target], () =>
      rmSync(target, { force: true }),
    )
}

/** As `jobs`: name: [least ratio wanted, makes the pair] */
export const formats = {
  'format: raw to vmdk': [wanted, convert('raw', 'half.raw', 'vmdk')],
  'format: vmdk to raw': [wanted, convert('vmdk', 'half.vmdk', 'raw')],
  'format: raw to vdi': [wanted, convert('raw', 'half.raw', 'vdi')],
  'format: vdi to raw': [wanted, convert('vdi', 'half.vdi', 'raw')],
  'format: raw to vhdx': [wanted, convert('raw', 'half.raw', 'vhdx')],
  'format: vhdx to raw': [wanted, convert('vhdx', 'half.vhdx', 'raw')],
  'format: raw to vpc': [wanted, convert('raw', 'half.raw', 'vpc', '-o', 'force_size=on')],
  'format: vpc to raw': [wanted, convert('vpc', 'half.vpc', 'raw')],
  'format: dmg (zlib) to raw': [1.5, convert('dmg', 'half.dmg', 'raw')],
}
