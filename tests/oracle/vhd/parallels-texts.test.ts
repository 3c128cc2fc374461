import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { change, compareTexts, qemu, qemuIo, type TextCase } from './texts.js'

/** `d.hds` with bytes replaced. */
function damaged(...changes: (readonly [offset: number, hex: string])[]): (folder: string) => void {
  return (folder) =>
    change(path.join(folder, 'd.hds'), (bytes) => {
      for (const [offset, hex] of changes) {
        Buffer.from(hex, 'hex').copy(bytes, offset)
      }
    })
}

function longer(bytes: number): (folder: string) => void {
  return (folder) => fs.truncateSync(path.join(folder, 'd.hds'), bytes)
}

const info = 'info -f parallels d.hds'
const notClosed = [44, '596e6f74'] as const

const damages: TextCase[] = [
  [info, damaged([0, '00'])],
  ['info d.hds', damaged([0, '00'])],
  [info, damaged([16, '03'])],
  [info, damaged([28, '00000000'])],
  [info, damaged([28, '0000ff7f'])],
  [info, damaged([32, 'ffffff7f'])],
  [info, damaged([32, '01000000'])],
  [info, damaged([36, '0100000000000000'])],
  [info, damaged([36, '0000000000010000'])],
  [info, damaged([48, '00000000'])],
  [info, damaged([56, '0100000000000000'])],
  ['check d.hds', damaged([56, '0100000000000000'])],
  ['check d.hds', damaged(notClosed)],
  ['check -r leaks d.hds', damaged(notClosed)],
  ['check --output=json d.hds', damaged(notClosed)],
  ['check -r all d.hds', damaged(notClosed)],
  ['resize d.hds 1M', damaged(notClosed)],
  [info, damaged(notClosed)],
  ['check d.hds', damaged([68, '04000000'])],
  ['check d.hds', damaged([68, '05000000'])],
  ['check d.hds', damaged([68, '06000000'])],
  ['check d.hds', damaged([68, '09000000'], [72, '0a000000'])],
  ['check --output=json d.hds', damaged([68, '09000000'])],
  ['check d.hds', longer(500000)],
  ['check -r leaks d.hds', longer(500000)],
  ['check -r all d.hds', longer(500000)],
  ['check --output=json d.hds', longer(500000)],
  ['check d.hds', longer(262143)],
  ['map --output=json d.hds', damaged([68, '09000000'])],
].map(([line, prepare]) => ({ line, prepare }) as TextCase)

/**
 * `d.hds` with a format extension at its end, which holds one bitmap (a bit a sector, the first two set),
 * changed where the places count from the first feature.
 */
function extended(...changes: (readonly [offset: number, hex: string])[]): (folder: string) => void {
  return (folder) => {
    const image = path.join(folder, 'd.hds')
    const extension = Buffer.alloc(65536)
    extension.write('87eadc23ef4c23ab', 'hex')
    const at = 24
    extension.write('4ab32c25ae5f3820', at, 'hex')
    extension.writeUInt32LE(40, at + 16)
    extension.writeUInt32LE((5 << 20) / 512, at + 24)
    extension.write('00112233445566778899aabbccddeeff', at + 32, 'hex')
    extension.writeUInt32LE(1, at + 48)
    extension.writeUInt32LE(1, at + 52)
    extension.writeUInt32LE((262144 + 65536) / 512, at + 56)
    for (const [offset, hex] of changes) {
      extension.write(hex, at + offset, 'hex')
    }
    createHash('md5').update(extension.subarray(at)).digest().copy(extension, 8)
    const bits = Buffer.alloc(65536)
    bits[0] = 3
    fs.appendFileSync(image, Buffer.concat([extension, bits]))
    change(image, (bytes) => {
      bytes.writeUInt32LE(262144 / 512, 56)
    })
  }
}

const extensions: TextCase[] = [
  extended(),
  extended([-24, '01']),
  extended([0, '07']),
  extended([8, '01']),
  extended([16, 'ffff0000']),
  extended([16, '08000000']),
  extended([24, '01']),
  extended([52, '02000000']),
  extended([52, '00000000']),
  extended([48, '80000000'], [52, '00000000']),
  extended([56, '01']),
  extended([16, 'a0ff0000']),
].map((prepare) => ({ line: info, prepare }))

const lines = [
  'info d.hds',
  'info --output=json d.hds',
  'info old.hds',
  'check d.hds',
  'check old.hds',
  'check --output=json d.hds',
  'map d.hds',
  'map --output=json d.hds',
  'map --output=json old.hds',
  'convert -f parallels -O raw old.hds new',
  'create -f parallels -o help',
  'create -f parallels new 1000',
  'create -f parallels new 0',
  'create -f parallels new 5000T',
  'create -f parallels -o cluster_size=0 new 3M',
  'create -f parallels -o cluster_size=4G new 3M',
  'create -f parallels -o cluster_size=2147483646 new 3M',
  'create -f parallels -o cluster_size=512 new 4T',
  'create -f parallels -o cluster_size=1000 new 3M',
  'create -f parallels -o preallocation=metadata new 3M',
  'create -f parallels -b d.hds -F parallels new',
  'convert -O parallels d.hds new',
  'convert -O parallels -c d.hds new',
  'convert -O parallels -B d.hds -F parallels d.hds new',
  'convert -O parallels -S 0 d.hds new',
  'measure -O parallels --size 5M',
  'snapshot -l d.hds',
  'snapshot -c a d.hds',
  'amend -o cluster_size=1M d.hds',
  'rebase -u -b old.hds -F parallels d.hds',
  'commit d.hds',
  'bitmap --add d.hds a',
  'compare d.hds old.hds',
  'dd if=d.hds of=new -O parallels bs=1M count=2',
  'info --image-opts driver=parallels,prealloc-mode=x,file.filename=d.hds',
  'info --image-opts driver=parallels,prealloc-size=x,file.filename=d.hds',
  'info --image-opts driver=parallels,prealloc-mode=truncate,prealloc-size=1M,file.filename=d.hds',
].map((line) => ({ line }))

compareTexts(
  (folder) => {
    qemu(folder, 'create', '-q', '-f', 'parallels', '-o', 'cluster_size=64k', 'd.hds', '5M')
    qemuIo(folder, 'd.hds', 'parallels', 'write -P 1 3M 64k', 'write -P 2 0 4k', 'write -z 128k 64k')
    fs.writeFileSync(path.join(folder, 'old.hds'), oldImage())
  },
  [...lines, ...damages, ...extensions],
)

/** An image of the first kind, whose table counts sectors and whose data stand right behind it. */
function oldImage(): Uint8Array {
  const bytes = Buffer.alloc(512 + 2 * 63 * 512)
  bytes.write('WithoutFreeSpace')
  for (const [at, value] of [
    [16, 2],
    [20, 16],
    [24, 1],
    [28, 63],
    [32, 4],
    [36, 250],
    // The upper half of the length is not looked at.
    [40, 77],
    [64, 64],
    [72, 1],
  ] as const) {
    bytes.writeUInt32LE(value, at)
  }
  bytes.fill(1, 512, 512 + 63 * 512)
  bytes.fill(2, 512 + 63 * 512)
  return bytes
}
