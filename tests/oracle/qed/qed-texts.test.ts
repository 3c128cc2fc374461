import fs from 'node:fs'
import path from 'node:path'
import { change, compareTexts, qemu, qemuIo, type TextCase } from '../vhd/texts.js'

/** `q.qed` with bytes replaced. */
function damaged(...places: readonly (readonly [offset: number, hex: string])[]): (folder: string) => void {
  return (folder) =>
    change(path.join(folder, 'q.qed'), (bytes) => {
      for (const [offset, hex] of places) {
        Buffer.from(hex, 'hex').copy(bytes, offset)
      }
    })
}

/** One bit of a compatible feature. */
function damageOf(folder: string, name: string, at: number): void {
  change(path.join(folder, name), (bytes) => {
    bytes[at] = 1
  })
}

const info = 'info -f qed q.qed'
/** Of `q.qed`: the first-level table, and the second-level table that QEMU makes behind the first cluster of data. */
const l1 = 65536
const l2 = 6 * 65536

const damages: TextCase[] = (
  [
    [info, damaged([0, '00'])],
    ['info q.qed', damaged([0, '00'])],
    [info, damaged([16, '08'])],
    [info, damaged([16, 'f8ffffffffffffff'])],
    [info, damaged([20, '80'])],
    [info, damaged([24, 'ff'])],
    [info, damaged([32, 'ff'])],
    ['map --output=json q.qed', damaged([32, 'ff'])],
    [info, damaged([4, '00000000'])],
    [info, damaged([4, '00080000'])],
    [info, damaged([4, '00000008'])],
    [info, damaged([4, '01000100'])],
    [info, damaged([8, '00'])],
    [info, damaged([8, '03'])],
    [info, damaged([8, '20'])],
    [info, damaged([12, '00'])],
    [info, damaged([12, '02'])],
    [info, damaged([12, 'ffffffff'])],
    [info, damaged([48, '01'])],
    [info, damaged([48, '0000000000000000'])],
    [info, damaged([48, 'ffffffffffffffff'])],
    [info, damaged([48, '0000000000400000'])],
    [info, damaged([40, '0000000000000000'])],
    [info, damaged([40, '0100010000000000'])],
    [info, damaged([40, '0000ffff00000000'])],
    [info, damaged([40, '00000000000000ff'])],
    [info, damaged([40, '0000090000000000'])],
    [info, damaged([16, '01'], [56, '4000000005000000'])],
    [info, damaged([16, '01'], [56, '0000010001000000'])],
    [info, damaged([16, '01'], [56, '4000000000040000'])],
    [info, damaged([16, '01'], [56, '40000000ff030000'], [64, '61']) as (folder: string) => void],
    [info, damaged([16, '05'], [56, '4000000006000000'], [64, '622e71636f77'])],
    ['rebase -u -b r.qed -F qed q.qed', damaged([24, '01'])],
    ['rebase -u -b r.qed -F qed b.qed', (folder: string) => damageOf(folder, 'b.qed', 31)],
    ["rebase -u -b '' b.qed", (folder: string) => damageOf(folder, 'b.qed', 24)],
    ['resize q.qed 64M', damaged([24, '01'])],
    ['check -r all q.qed', damaged([24, '01'])],
    // Not closed.
    ['check q.qed', damaged([16, '02'])],
    ['check -r leaks q.qed', damaged([16, '02'])],
    ['check -r all q.qed', damaged([16, '02'])],
    ['resize q.qed 64M', damaged([16, '02'])],
    ['resize q.qed 64M', damaged([16, '02'], [l1, '0100000000000000'])],
    // Tables and clusters that are nowhere, or used twice.
    ...(
      [
        [[l1, '0100000000000000']],
        [[l1, '0000000001000000']],
        [[l1 + 8, '0000000001000000']],
        [[l1 + 8, '0000010000000000']],
        [[l1 + 65536, '0000000001000000']],
        [[l2, '0100000000000000']],
        [[l2, '0200000000000000']],
        [[l2, '0000000001000000']],
        [[l2 + 8, '0000010000000000']],
        [[l2 + 8, '0000060000000000']],
        [[l2 + 800, '0000050000000000']],
        [[l2, '0000000000000000']],
        [
          [l1, '0000000001000000'],
          [l1 + 8, '0000000001000000'],
        ],
      ] as const
    ).flatMap((places) =>
      [
        'check q.qed',
        'check -r all q.qed',
        'check --output=json q.qed',
        'map --output=json q.qed',
        'convert -O raw q.qed new.raw',
      ].map((line) => [line, damaged(...places)] as const),
    ),
    ['info -f qed short', (folder: string) => fs.writeFileSync(path.join(folder, 'short'), 'QED\0')],
    ['info short', (folder: string) => fs.writeFileSync(path.join(folder, 'short'), 'QED\0')],
  ] as const
).map(([line, prepare]) => ({ line, prepare }))

const lines = [
  'info q.qed',
  'info --output=json q.qed',
  'info b.qed',
  'info r.qed',
  'info --output=json r.qed',
  'info --backing-chain b.qed',
  'check q.qed',
  'check --output=json q.qed',
  'check -r all q.qed',
  'check -r leaks b.qed',
  'map q.qed',
  'map --output=json q.qed',
  'map --output=json b.qed',
  'map r.qed',
  'create -f qed -o help',
  'create -f qed new.qed 1000',
  'create -f qed new.qed 0',
  'create -f qed new.qed',
  'create -f qed -b q.qed -F qed new.qed',
  'create -f qed -b q.qed new.qed',
  'create -f qed -b plain -F raw new.qed',
  'create -f qed -b plain -F raw new.qed 2M',
  'create -f qed -b missing -F raw new.qed',
  'create -f qed -o cluster_size=4k new.qed 1M',
  'create -f qed -o cluster_size=4k,table_size=2 new.qed 16M',
  'create -f qed -o cluster_size=4k,table_size=2 new.qed 5G',
  'create -f qed -o cluster_size=2k new.qed 1M',
  'create -f qed -o cluster_size=5000 new.qed 1M',
  'create -f qed -o cluster_size=128M new.qed 1M',
  'create -f qed -o table_size=0 new.qed 1M',
  'create -f qed -o table_size=3 new.qed 1M',
  'create -f qed -o table_size=32 new.qed 1M',
  'create -f qed -o preallocation=full new.qed 1M',
  'create -f qed -o preallocation=metadata new.qed 1M',
  'create -f qed -o lazy_refcounts=on new.qed 1M',
  'convert -O qed q.qed new.qed',
  'convert -O qed -o cluster_size=16k plain new.qed',
  'convert -c -O qed plain new.qed',
  'convert -O qed -B q.qed -F qed q.qed new.qed',
  'measure -O qed --size 5M',
  'snapshot -l q.qed',
  'snapshot -c a q.qed',
  'amend -o size=5M q.qed',
  'resize q.qed 8M',
  'resize q.qed 1M',
  'resize --shrink q.qed 1M',
  'resize q.qed +512',
  'resize --preallocation=falloc q.qed 64M',
  'resize --preallocation=metadata q.qed 64M',
  'resize q.qed 128T',
  'rebase -b r.qed -F qed b.qed',
  'rebase -u -b plain -F raw b.qed',
  'rebase -u -b plain -F qcow2 b.qed',
  `rebase -u -b ${'x'.repeat(250)}/${'x'.repeat(2000)} -F raw b.qed`,
  'rebase -u -b r.qed -F qed b.qed',
  'commit b.qed',
  'commit q.qed',
  'compare q.qed r.qed',
  'compare q.qed b.qed',
  'bitmap --add q.qed b',
  'dd if=q.qed of=new.qed -O qed bs=1M count=2',
].map((line) => ({ line }))

compareTexts(
  (folder) => {
    qemu(folder, 'create', '-q', '-f', 'qed', 'q.qed', '5M')
    qemuIo(folder, 'q.qed', 'qed', 'write -P 1 3M 64k', 'write -P 2 0 4k', 'write -z 1M 128k')
    qemu(folder, 'create', '-q', '-f', 'qed', '-b', 'q.qed', '-F', 'qed', 'b.qed')
    qemuIo(folder, 'b.qed', 'qed', 'write -P 3 3000k 3k', 'write -P 4 1k 512', 'write -z 3M 64k')
    fs.writeFileSync(path.join(folder, 'plain'), Buffer.alloc(1 << 20, 7))
    qemu(folder, 'create', '-q', '-f', 'qed', '-b', 'plain', '-F', 'raw', 'r.qed')
    qemuIo(folder, 'r.qed', 'qed', 'write -P 9 100k 70k')
  },
  [...lines, ...damages],
)
