import fs from 'node:fs'
import path from 'node:path'
import { crc32c } from '../../../src/drivers/format/vhdx/crc32c.js'
import { change, compareTexts, qemu, qemuIo, type TextCase } from './texts.js'

const headers = [0x10000, 0x20000]

/** `d.vhdx` with bytes replaced, and the checksums of headers and region tables put right. */
function damaged(offset: number, hex: string, seal = true): (folder: string) => void {
  return (folder) =>
    change(path.join(folder, 'd.vhdx'), (bytes) => {
      Buffer.from(hex, 'hex').copy(bytes, offset)
      if (seal) {
        for (const [at, length] of [
          [0x10000, 4096],
          [0x20000, 4096],
          [0x30000, 65536],
        ] as const) {
          bytes.writeUInt32LE(crc32c(bytes.subarray(at, at + length), 4), at + 4)
        }
      }
    })
}

function both(offset: number, hex: string): (folder: string) => void {
  return (folder) => {
    for (const header of headers) {
      damaged(header + offset, hex)(folder)
    }
  }
}

function cut(size: number): (folder: string) => void {
  return (folder) => fs.truncateSync(path.join(folder, 'd.vhdx'), size)
}

const info = 'info d.vhdx'
const damages: TextCase[] = [
  ['info -f vhdx d.vhdx', damaged(0, '00')],
  [info, damaged(0x10004, '00', false)],
  [info, both(66, '0200')],
  [info, both(64, '0100')],
  [info, both(72, '0000080000000000')],
  [info, damaged(0x30004, '00', false)],
  [info, damaged(0x30008, 'ffff0000')],
  [info, damaged(0x30008, '01000000')],
  [info, damaged(0x30020, '0000300000000000')],
  [info, damaged(0x30030, '00')],
  [info, damaged(0x300000, '00')],
  [info, damaged(0x30000a, '0400')],
  [info, damaged(0x300020, '00')],
  [info, damaged(0x310000, '00001000')],
  [info, damaged(0x310000, '00003000')],
  [info, damaged(0x310004, '02000000')],
  [info, damaged(0x310020, '00040000')],
  [info, damaged(0x200000, '0600100000000000')],
  [info, damaged(0x200000, '0600003000000000')],
  [info, damaged(0x200000, '0600900000000000')],
  ['check d.vhdx', damaged(0x200000, '0600100000000000')],
  ['check d.vhdx', damaged(0x200000, '0600003000000000')],
  ['check d.vhdx', damaged(0x200000, '0600900000000000')],
  ['check d.vhdx', cut(9 << 20)],
  [info, cut(9 << 20)],
  [info, cut(100)],
].map(([line, prepare]) => ({ line, prepare }) as TextCase)

const lines = [
  'create -f vhdx new 20M',
  'create -f vhdx new 1000',
  'create -f vhdx new',
  'create -f vhdx new 65T',
  ...[
    'log_size=1',
    'log_size=0',
    'log_size=3M',
    'log_size=4G',
    'block_size=1',
    'block_size=3M',
    'block_size=512M',
    'subformat=x',
    'subformat=differencing',
    'block_state_zero=x',
    'bogus=1',
  ].map((option) => `create -f vhdx -o ${option} new 20M`),
  'info d.vhdx',
  'info --output=json d.vhdx',
  'check d.vhdx',
  'check --output=json d.vhdx',
  'check -r all d.vhdx',
  'amend -o size=1 d.vhdx',
  'measure -O vhdx d.vhdx',
  'convert -c -O vhdx d.vhdx new',
  'convert -O vhdx d.vhdx new',
  'convert -O raw d.vhdx new',
  'snapshot -c x d.vhdx',
  'commit d.vhdx',
].map((line) => ({ line }))

compareTexts(
  (folder) => {
    qemu(folder, 'create', '-f', 'vhdx', 'd.vhdx', '20M')
    qemuIo(folder, 'd.vhdx', 'vhdx', 'write -P 1 3M 100k')
  },
  [...lines, ...damages],
)
