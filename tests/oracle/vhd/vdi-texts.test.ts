import path from 'node:path'
import { change, compareTexts, qemu, qemuIo, type TextCase } from './texts.js'

/** `d.vdi` with bytes replaced. */
function damaged(offset: number, hex: string): (folder: string) => void {
  return (folder) =>
    change(path.join(folder, 'd.vdi'), (bytes) => Buffer.from(hex, 'hex').copy(bytes, offset))
}

const info = 'info -f vdi d.vdi'

const damages: TextCase[] = [
  [info, damaged(0x40, '00')],
  ['info d.vdi', damaged(0x40, '00')],
  [info, damaged(0x44, '02000100')],
  [info, damaged(0x44, '01000200')],
  [info, damaged(0x154, '01020000')],
  [info, damaged(0x154, 'fffffffe')],
  [info, damaged(0x158, '01')],
  [info, damaged(0x168, '00100000')],
  [info, damaged(0x170, 'ffffffffffffffff')],
  [info, damaged(0x170, '0000000000000200')],
  [info, damaged(0x170, '01805000')],
  [info, damaged(0x170, '0000500000000000')],
  [info, damaged(0x170, '0000600000000000')],
  [info, damaged(0x170, 'ff01000000000000')],
  [info, damaged(0x178, '00000000')],
  [info, damaged(0x178, '01001000')],
  [info, damaged(0x180, '04000000')],
  [info, damaged(0x180, '81ffff3f')],
  [info, damaged(0x1a8, '01')],
  [info, damaged(0x1b8, '01')],
  [info, damaged(0x1c7, '01')],
  ['check d.vdi', damaged(512, '09000000')],
  ['check d.vdi', damaged(516, '00000000')],
  ['check d.vdi', damaged(0x184, '00000000')],
  ['check --output=json d.vdi', damaged(516, '05000000')],
].map(([line, prepare]) => ({ line, prepare }) as TextCase)

const lines = [
  'info d.vdi',
  'info --output=json d.vdi',
  'info s.vdi',
  'check d.vdi',
  'check --output=json s.vdi',
  'map d.vdi',
  'map --output=json d.vdi',
  'map --output=json s.vdi',
  'create -f vdi -o help',
  'create -f vdi new.vdi 1000',
  'create -f vdi new.vdi 0',
  'create -f vdi -o static=on new.vdi 3M',
  'create -f vdi -o static=maybe new.vdi 3M',
  'create -f vdi -o block_size=2M new.vdi 3M',
  'create -f vdi -o preallocation=metadata new.vdi 3M',
  'create -f vdi -b d.vdi -F vdi new.vdi',
  'create -f vdi new.vdi 600T',
  'convert -O vdi d.vdi new.vdi',
  'convert -O vdi -c d.vdi new.vdi',
  'convert -O vdi -S 0 d.vdi new.vdi',
  'measure -O vdi --size 5M',
  'snapshot -l d.vdi',
  'snapshot -c a d.vdi',
  'amend -o static=on d.vdi',
  'rebase -b s.vdi -F vdi d.vdi',
  'commit d.vdi',
  'resize d.vdi 1M',
  'compare d.vdi s.vdi',
  'dd if=d.vdi of=new.vdi -O vdi bs=1M count=2',
].map((line) => ({ line }))

compareTexts(
  (folder) => {
    qemu(folder, 'create', '-q', '-f', 'vdi', 'd.vdi', '5M')
    qemuIo(folder, 'd.vdi', 'vdi', 'write -P 1 3M 64k', 'write -P 2 0 4k')
    qemu(folder, 'create', '-q', '-f', 'vdi', '-o', 'static=on', 's.vdi', '2M')
  },
  [...lines, ...damages],
)
