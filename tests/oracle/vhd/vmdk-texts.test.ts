import fs from 'node:fs'
import path from 'node:path'
import { change, compareTexts, qemu, qemuIo, type TextCase } from './texts.js'

function damaged(file: string, offset: number, hex: string): (folder: string) => void {
  return (folder) => change(path.join(folder, file), (bytes) => Buffer.from(hex, 'hex').copy(bytes, offset))
}

function edited(file: string, from: string, to: string): (folder: string) => void {
  return (folder) => {
    const name = path.join(folder, file)
    const text = fs.readFileSync(name, 'latin1')
    fs.writeFileSync(name, text.replace(from, to), 'latin1')
  }
}

const cases: [string, ((folder: string) => void)?][] = [
  ['info s.vmdk'],
  ['info --output=json s.vmdk'],
  ['info f.vmdk'],
  ['info --output=json f.vmdk'],
  ['info t.vmdk'],
  ['info o.vmdk'],
  ['info --output=json o.vmdk'],
  ['info --backing-chain child.vmdk'],
  ['check s.vmdk'],
  ['check f.vmdk'],
  ['check --output=json o.vmdk'],
  ['check -r all s.vmdk'],
  ['map s.vmdk'],
  ['map --output=json s.vmdk'],
  ['map --output=json f.vmdk'],
  ['map --output=json o.vmdk'],
  ['map --output=json child.vmdk'],
  ['create -f vmdk -o help'],
  ['create -f vmdk new.vmdk 1000'],
  ['create -f vmdk new.vmdk 0'],
  ['create -f vmdk -o subformat=foo new.vmdk 1M'],
  ['create -f vmdk -o adapter_type=foo new.vmdk 1M'],
  ['create -f vmdk -o adapter_type=buslogic,hwversion=10,toolsversion=5 new.vmdk 1M'],
  ['create -f vmdk -o compat6=on,hwversion=10 new.vmdk 1M'],
  ['create -f vmdk -o subformat=monolithicFlat,zeroed_grain=on new.vmdk 1M'],
  ['create -f vmdk -o subformat=monolithicFlat -b s.vmdk -F vmdk new.vmdk'],
  ['create -f vmdk -b s.vmdk -F raw new.vmdk'],
  ['create -f vmdk -b s.vmdk -F vmdk new.vmdk'],
  ['create -f vmdk -b none.vmdk -F vmdk new.vmdk 1M'],
  ['create -f vmdk -u -b raw -F vmdk new.vmdk 1M'],
  ['convert -O vmdk -o subformat=streamOptimized s.vmdk new.vmdk'],
  ['convert -O vmdk -c s.vmdk new.vmdk'],
  ['convert -O raw o.vmdk new.raw'],
  ['convert -O raw child.vmdk new.raw'],
  ['compare s.vmdk o.vmdk'],
  ['measure -O vmdk --size 5M'],
  ['snapshot -l s.vmdk'],
  ['rebase -u -b "" child.vmdk'],
  ['amend -o compat6=on s.vmdk'],
  ['commit child.vmdk'],
  ['commit -d child.vmdk'],
  ['info s.vmdk', damaged('s.vmdk', 0, '00')],
  ['info -f vmdk s.vmdk', damaged('s.vmdk', 0, '00')],
  ['info s.vmdk', damaged('s.vmdk', 4, '04000000')],
  ['info s.vmdk', damaged('s.vmdk', 4, '03000000')],
  ['resize s.vmdk 6M', damaged('s.vmdk', 4, '03000000')],
  ['info s.vmdk', damaged('s.vmdk', 12, '0000000000000000')],
  ['info s.vmdk', damaged('s.vmdk', 20, '0000000000000000')],
  ['info s.vmdk', damaged('s.vmdk', 20, '0000400000000000')],
  ['info s.vmdk', damaged('s.vmdk', 44, '01020000')],
  ['info s.vmdk', damaged('s.vmdk', 44, '00000000')],
  ['info s.vmdk', damaged('s.vmdk', 64, '0000ff0000000000')],
  ['info s.vmdk', damaged('s.vmdk', 56, 'ffffffffffffffff')],
  ['check s.vmdk', damaged('s.vmdk', 0x3400, 'ffff0000')],
  ['info s.vmdk', edited('s.vmdk', 'CID=', 'XID=')],
  ['info s.vmdk', edited('s.vmdk', 'parentCID=ffffffff', 'parentXID=ffffffff')],
  ['info s.vmdk', edited('s.vmdk', 'CID=', 'CID=z')],
  ['info f.vmdk', edited('f.vmdk', 'monolithicFlat"', 'monolithicFoo"')],
  ['info f.vmdk', edited('f.vmdk', 'createType', 'createKind')],
  ['info f.vmdk', edited('f.vmdk', 'FLAT "f-flat.vmdk" 0', 'FLAT "f-flat.vmdk"')],
  ['info f.vmdk', edited('f.vmdk', 'FLAT "f-flat.vmdk" 0', 'FLAT "f-flat.vmdk" -1')],
  ['info f.vmdk', edited('f.vmdk', 'FLAT "f-flat.vmdk" 0', 'VMFS "f-flat.vmdk"')],
  ['info f.vmdk', edited('f.vmdk', 'FLAT "f-flat.vmdk" 0', 'SPARSE "f-flat.vmdk"')],
  ['info f.vmdk', edited('f.vmdk', 'f-flat.vmdk', 'none.vmdk')],
  ['info t.vmdk', edited('t.vmdk', 'SPARSE "t-s001.vmdk"', 'SPARSE "t-s001.vmdk" 5')],
  ['info t.vmdk', edited('t.vmdk', 'SPARSE', 'SESPARSE')],
  ['info f.vmdk', (folder) => fs.truncateSync(path.join(folder, 'f.vmdk'), 3)],
]

compareTexts(
  (folder) => {
    qemu(folder, 'create', '-q', '-f', 'vmdk', 's.vmdk', '5M')
    qemuIo(folder, 's.vmdk', 'vmdk', 'write -P 1 3M 64k', 'write -P 2 0 4k')
    qemu(folder, 'create', '-q', '-f', 'vmdk', '-o', 'subformat=monolithicFlat', 'f.vmdk', '2M')
    qemu(folder, 'create', '-q', '-f', 'vmdk', '-o', 'subformat=twoGbMaxExtentSparse', 't.vmdk', '2M')
    qemu(folder, 'convert', '-O', 'vmdk', '-o', 'subformat=streamOptimized', 's.vmdk', 'o.vmdk')
    qemu(folder, 'create', '-q', '-f', 'vmdk', '-b', 's.vmdk', '-F', 'vmdk', 'child.vmdk')
    qemuIo(folder, 'child.vmdk', 'vmdk', 'write -P 3 1M 64k')
    fs.writeFileSync(path.join(folder, 'raw'), Buffer.alloc(1 << 20))
  },
  cases.map(([line, prepare]): TextCase => ({ line, ...(prepare === undefined ? {} : { prepare }) })),
)
