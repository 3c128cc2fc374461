import fs from 'node:fs'
import path from 'node:path'
import { change, compareTexts, qemu, qemuIo, type TextCase } from '../vhd/texts.js'

/** `q.qcow` with bytes replaced. */
function damaged(offset: number, hex: string): (folder: string) => void {
  return (folder) =>
    change(path.join(folder, 'q.qcow'), (bytes) => Buffer.from(hex, 'hex').copy(bytes, offset))
}

const info = 'info -f qcow q.qcow'
const secret = '--object secret,id=s,data=abc'
const opened = (file: string, rest: string) =>
  `map --output=json ${secret} --image-opts driver=qcow,file.filename=${file},${rest}`

const damages: TextCase[] = (
  [
    [info, damaged(0, '00')],
    ['info q.qcow', damaged(0, '00')],
    [info, damaged(7, '02')],
    [info, damaged(7, '03')],
    ['info q.qcow', damaged(7, '04')],
    [info, damaged(7, '00')],
    [info, damaged(24, '0000000000000000')],
    [info, damaged(24, '0000000000000001')],
    [info, damaged(24, '0000000000000258')],
    [info, damaged(24, 'ffffffffffffffff')],
    [info, damaged(24, '0800000000000000')],
    [info, damaged(32, '08')],
    [info, damaged(32, '11')],
    [info, damaged(33, '05')],
    [info, damaged(33, '0e')],
    [info, damaged(36, '00000002')],
    [info, damaged(36, '00000001')],
    ['map q.qcow', damaged(36, '00000001')],
    [info, damaged(8, '000000000000003000000400')],
    [info, damaged(8, '0000000000000030000003ff')],
    [info, damaged(8, '000000000000003000000000')],
    [info, damaged(40, '0000000001000000')],
    [info, damaged(40, 'ffffffffffffff00')],
    ['info -f qcow short', (folder: string) => fs.writeFileSync(path.join(folder, 'short'), 'QFI\xfb')],
    // Tables and clusters that are nowhere.
    ['convert -O raw q.qcow new.raw', damaged(48, '0000000010000000')],
    ['map --output=json q.qcow', damaged(48, '0000000010000000')],
    ['convert -O raw q.qcow new.raw', damaged(4096, '0000000010000000')],
    ['map --output=json q.qcow', damaged(4096, '0000000010000000')],
  ] as const
).map(([line, prepare]) => ({ line, prepare }))

const lines = [
  'info q.qcow',
  'info --output=json q.qcow',
  'info b.qcow',
  'info --backing-chain b.qcow',
  'info --output=json e.qcow',
  'info e.qcow',
  'check q.qcow',
  'map q.qcow',
  'map --output=json q.qcow',
  'map --output=json b.qcow',
  'map --output=json c.qcow',
  'map c.qcow',
  'map e.qcow',
  opened('e.qcow', 'encrypt.key-secret=s'),
  opened('e.qcow', 'encrypt.key-secret=s,encrypt.format=luks'),
  opened('e.qcow', 'encrypt.key-secret=t'),
  opened('q.qcow', 'encrypt.key-secret=s,encrypt.format=aes'),
  'info --image-opts driver=qcow,file.filename=e.qcow,encrypt.key-secret=zz',
  'create -f qcow -o help',
  'create -f qcow new.qcow 1000',
  'create -f qcow new.qcow 0',
  'create -f qcow new.qcow',
  'create -f qcow -b q.qcow -F qcow new.qcow',
  'create -f qcow -b q.qcow new.qcow',
  'create -f qcow -b missing -F raw new.qcow',
  'create -f qcow -o encryption=on new.qcow 1M',
  'create -f qcow -o encryption=on,encrypt.format=aes new.qcow 1M',
  'create -f qcow -o encrypt.format=aes new.qcow 1M',
  `create -f qcow ${secret} -o encrypt.format=aes,encrypt.key-secret=s new.qcow 1M`,
  `create -f qcow ${secret} -o encrypt.format=luks,encrypt.key-secret=s new.qcow 1M`,
  `create -f qcow ${secret} -o encrypt.format=foo,encrypt.key-secret=s new.qcow 1M`,
  `create -f qcow ${secret} -o encrypt.key-secret=s new.qcow 1M`,
  `create -f qcow ${secret} -o encrypt.format=aes,encrypt.key-secret=t new.qcow 1M`,
  'create -f qcow -o cluster_size=4k new.qcow 1M',
  'create -f qcow -o preallocation=full new.qcow 1M',
  'create -f qcow -o preallocation=metadata new.qcow 1M',
  'convert -O qcow q.qcow new.qcow',
  `convert -O qcow -c ${secret} -o encrypt.format=aes,encrypt.key-secret=s q.qcow new.qcow`,
  'measure -O qcow --size 5M',
  'snapshot -l q.qcow',
  'snapshot -c a q.qcow',
  'amend -o size=5M q.qcow',
  'resize q.qcow 8M',
  'rebase -b c.qcow -F qcow b.qcow',
  'rebase -u -b c.qcow -F qcow b.qcow',
  'commit b.qcow',
  'commit q.qcow',
  'compare q.qcow c.qcow',
  'compare q.qcow b.qcow',
  'bitmap --add q.qcow b',
  'dd if=q.qcow of=new.qcow -O qcow bs=1M count=2',
].map((line) => ({ line }))

compareTexts(
  (folder) => {
    qemu(folder, 'create', '-q', '-f', 'qcow', 'q.qcow', '5M')
    qemuIo(folder, 'q.qcow', 'qcow', 'write -P 1 3M 64k', 'write -P 2 0 4k', 'write -z 1M 10k')
    qemu(folder, 'create', '-q', '-f', 'qcow', '-b', 'q.qcow', '-F', 'qcow', 'b.qcow')
    qemuIo(folder, 'b.qcow', 'qcow', 'write -P 3 3000k 3k', 'write -P 4 1k 512')
    qemu(folder, 'create', '-q', '-f', 'qcow', 'c.qcow', '5M')
    qemuIo(folder, 'c.qcow', 'qcow', 'write -c -P 1 3M 4k', 'write -c -P 2 0 4k', 'write -P 5 8k 1k')
    const key = ['--object', 'secret,id=s,data=abc', '-o', 'encrypt.format=aes,encrypt.key-secret=s']
    qemu(folder, 'create', '-q', '-f', 'qcow', ...key, 'e.qcow', '1M')
  },
  [...lines, ...damages],
)
