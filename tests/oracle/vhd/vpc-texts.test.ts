import fs from 'node:fs'
import path from 'node:path'
import { change, compareTexts, qemu, qemuIo, type TextCase } from './texts.js'

function seal(bytes: Buffer, at: number): void {
  bytes.writeUInt32BE(0, at + 64)
  let sum = 0
  for (let i = 0; i < 512; i++) {
    sum += bytes[at + i] ?? 0
  }
  bytes.writeUInt32BE(~sum >>> 0, at + 64)
}

/** `d.vhd` with bytes replaced and the footer copy's checksum put right. */
function damaged(offset: number, hex: string, wrongSum = false): (folder: string) => void {
  return (folder) =>
    change(path.join(folder, 'd.vhd'), (bytes) => {
      Buffer.from(hex, 'hex').copy(bytes, offset)
      seal(bytes, 0)
      if (wrongSum) {
        bytes.writeUInt8(bytes.readUInt8(64) ^ 1, 64)
      }
    })
}

function cut(size: number): (folder: string) => void {
  return (folder) => fs.truncateSync(path.join(folder, 'd.vhd'), size)
}

const info = 'info d.vhd'
const forced = 'info -f vpc d.vhd'

const damages: TextCase[] = [
  [forced, damaged(0, '00')],
  [info, damaged(0x40, '00', true)],
  [info, damaged(0x3c, '00000002')],
  [info, damaged(0x3c, '00000009')],
  [info, damaged(0x10, 'ffffffffffffffff')],
  [info, damaged(0x10, '0000000000ffffff')],
  [info, damaged(0x10, '7fffffffffffff00')],
  [info, damaged(0x200, '00')],
  [info, damaged(0x220, '00000000')],
  [info, damaged(0x220, '00000100')],
  [info, damaged(0x220, '00300000')],
  [info, damaged(0x220, '00100000')],
  [info, damaged(0x220, '80000000')],
  [info, damaged(0x21c, '00000000')],
  [info, damaged(0x21c, '7fffffff')],
  [info, damaged(0x21c, 'ffffffff')],
  [info, damaged(0x21c, '000ff001')],
  [info, damaged(0x210, 'ffffffffffffffff')],
  [info, damaged(0x210, '0000000000ffffff')],
  [info, damaged(0x210, '7fffffffffffff00')],
  [info, damaged(0x210, '0000000000000601')],
  [info, damaged(0x600, '00000000')],
  [info, damaged(0x600, '00001004')],
  [info, damaged(0x600, 'fffffffe')],
  [info, damaged(0x38, 'ffffffff')],
  [info, damaged(0x38, 'ffff10ff')],
  [info, damaged(0x1c, '77696e20')],
  [info, damaged(0x1c, '71656d32')],
  [info, damaged(0x1c, '64327620')],
  [info, damaged(0x1c, '74617000')],
  [info, damaged(0x1c, '43545853')],
  [info, damaged(0x1c, '77610000')],
  [info, damaged(0x1c, '76706320')],
  [
    'info --image-opts driver=vpc,file.filename=d.vhd,force_size_calc=current_size',
    damaged(0x34, '02000000'),
  ],
  ['info --image-opts driver=vpc,file.filename=d.vhd,force_size_calc=chs', damaged(0x1c, '77696e20')],
  [
    'info --image-opts driver=vpc,file.filename=d.vhd,force_size_calc=current_size',
    damaged(0x30, '00010000'),
  ],
  [forced, cut(100)],
  [forced, cut(0)],
  [info, cut(1000)],
  [info, cut(1600)],
  [info, cut(4096)],
].map(([line, prepare]) => ({ line, prepare }) as TextCase)

const lines = [
  'create -f vpc new 20M',
  'create -f vpc new 0',
  'create -f vpc new',
  'create -f vpc new 2040G',
  'create -f vpc new 2041G',
  'create -f vpc -o force_size=on new 2041G',
  'create -f vpc -o force_size=on,subformat=fixed new 1000',
  'create -f vpc -o subformat=x new 20M',
  'create -f vpc -o bogus=1 new 20M',
  'info f.vhd',
  'info -f vpc f.vhd',
  'info -f vpc d.vhd',
  'info --output=json d.vhd',
  'info --image-opts driver=vpc,file.filename=d.vhd,force_size_calc=foo',
  'info -f vpc r.raw',
  'map d.vhd',
  'map --output=json d.vhd',
  'map -f vpc f.vhd',
  'map -f vpc --output=json f.vhd',
  'check d.vhd',
  'amend -o size=1 d.vhd',
  'measure -O vpc d.vhd',
  'measure d.vhd',
  'convert -c -O vpc d.vhd new',
  'convert -O vpc d.vhd new',
  'convert -O vpc -o subformat=fixed d.vhd new',
  'convert -O raw d.vhd new',
  'compare d.vhd r.raw',
  'compare -f vpc -F vpc d.vhd f.vhd',
  'snapshot -c x d.vhd',
  'snapshot -l d.vhd',
  'commit d.vhd',
  'bitmap --add d.vhd b',
].map((line) => ({ line }))

compareTexts(
  (folder) => {
    qemu(folder, 'create', '-f', 'vpc', 'd.vhd', '20M')
    qemuIo(folder, 'd.vhd', 'vpc', 'write -P 1 3M 100k', 'write -P 2 19M 4k')
    qemu(folder, 'create', '-f', 'vpc', '-o', 'subformat=fixed', 'f.vhd', '20M')
    qemuIo(folder, 'f.vhd', 'vpc', 'write -P 1 3M 100k')
    qemu(folder, 'create', '-f', 'raw', 'r.raw', '1M')
  },
  [...lines, ...damages],
)
