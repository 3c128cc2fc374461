// The images that the jobs work on, made when the first job asks for them.
import { randomFillSync } from 'node:crypto'
import {
  closeSync,
  copyFileSync,
  existsSync,
  ftruncateSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs'
import { fileURLToPath } from 'node:url'
import { deflateSync } from 'node:zlib'
import { command, ours, qemu } from './measure.mjs'

const MiB = 1 << 20
const GiB = 1 << 30

/** A file that `fill` writes, of `bytes` bytes; absent: as many as were written. */
function withFile(path, bytes, fill) {
  const fd = openSync(path, 'w')
  fill((data, at) => writeSync(fd, data, 0, data.length, at))
  if (bytes !== undefined) {
    ftruncateSync(fd, bytes)
  }
  closeSync(fd)
}

const random = () => randomFillSync(Buffer.alloc(16 * MiB))

/** Files of this machine one after the other, until there are `bytes` bytes: text and programs. */
function installedFiles(bytes) {
  const chunks = []
  let total = 0
  const walk = (folder) => {
    for (const entry of readdirSync(folder, { withFileTypes: true }).sort((a, b) =>
      a.name < b.name ? -1 : 1,
    )) {
      if (total >= bytes) {
        return
      }
      const path = `${folder}/${entry.name}`
      if (entry.isDirectory()) {
        walk(path)
      } else if (entry.isFile() && statSync(path).size < 64 * MiB) {
        const data = readFileSync(path)
        chunks.push(data)
        total += data.length
      }
    }
  }
  walk('/usr/lib')
  walk('/usr/share')
  walk('/usr/bin')
  const once = Buffer.concat(chunks)
  return (at, length) => {
    const from = at % Math.max(1, once.length - length)
    return once.subarray(from, from + length)
  }
}

/** Table of chunks, property list and trailer (`koly`) of an Apple disk image. */
function diskImageTail(chunks, chunkBytes, dataBytes) {
  const sectors = chunkBytes / 512
  const table = Buffer.alloc(204 + (chunks.length + 1) * 40)
  table.write('mish')
  table.writeUInt32BE(1, 4)
  table.writeBigUInt64BE(BigInt(chunks.length * sectors), 16)
  table.writeUInt32BE(chunks.length + 1, 200)
  for (const [i, { at, bytes }] of chunks.entries()) {
    const entry = 204 + i * 40
    table.writeUInt32BE(0x80000005, entry)
    table.writeBigUInt64BE(BigInt(i * sectors), entry + 8)
    table.writeBigUInt64BE(BigInt(sectors), entry + 16)
    table.writeBigUInt64BE(BigInt(at), entry + 24)
    table.writeBigUInt64BE(BigInt(bytes), entry + 32)
  }
  table.writeUInt32BE(0xffffffff, 204 + chunks.length * 40)
  const list = Buffer.from(
    '<?xml version="1.0"?><plist version="1.0"><dict><key>resource-fork</key><dict><key>blkx</key><array><dict>' +
      `<key>Data</key><data>${table.toString('base64')}</data></dict></array></dict></dict></plist>`,
  )
  const trailer = Buffer.alloc(512)
  trailer.write('koly')
  trailer.writeUInt32BE(4, 4)
  trailer.writeUInt32BE(512, 8)
  trailer.writeBigUInt64BE(BigInt(dataBytes), 32)
  trailer.writeBigUInt64BE(BigInt(dataBytes), 216)
  trailer.writeBigUInt64BE(BigInt(list.length), 224)
  trailer.writeBigUInt64BE(BigInt(chunks.length * sectors), 492)
  return Buffer.concat([list, trailer])
}

const makers = {
  /** 1 GiB: half random data, a quarter text, a quarter holes, mixed in 16 MiB pieces. */
  'source.raw': (path) => {
    const text = Buffer.from('The quick brown fox jumps over the lazy dog. '.repeat(400000))
    const noise = random()
    withFile(path, GiB, (put) => {
      for (let i = 0; i < 64; i++) {
        if (i % 4 !== 3) {
          put(i % 4 === 2 ? text.subarray(0, 16 * MiB) : noise, i * 16 * MiB)
        }
      }
    })
  },
  'source.qcow2': (path) => qemu('convert', '-O', 'qcow2', image('source.raw'), path),
  /** 1 GiB without holes that nothing makes smaller. */
  'noise.raw': (path) => {
    withFile(path, GiB, (put) => {
      for (let i = 0; i < 64; i++) {
        put(random(), i * 16 * MiB)
      }
    })
  },
  'noise.qcow2': (path) => qemu('convert', '-O', 'qcow2', image('noise.raw'), path),
  'overwritten.qcow2': (path) => copyFileSync(image('noise.qcow2'), path),
  /** 1 GiB of text and programs. */
  'mixed.raw': (path) => {
    const files = installedFiles(GiB)
    withFile(path, GiB, (put) => {
      for (let at = 0; at < GiB; at += 16 * MiB) {
        put(files(at, 16 * MiB), at)
      }
    })
  },
  'mixed.zlib.qcow2': (path) => qemu('convert', '-c', '-O', 'qcow2', image('mixed.raw'), path),
  /** 64 GiB with 512 MiB in pieces of 64 KiB, 8 MiB apart. */
  'scattered.raw': (path) => {
    const noise = random()
    withFile(path, 64 * GiB, (put) => {
      for (let i = 0; i < 8192; i++) {
        put(noise.subarray((i % 256) * 65536, ((i % 256) + 1) * 65536), i * 8 * MiB + (i % 100) * 65536)
      }
    })
  },
  /** 1 GiB of data in a chain: each of four images holds every fifth MiB over the lowest one. */
  'chain4.qcow2': (path) => {
    copyFileSync(image('noise.qcow2'), 'chain0.qcow2')
    for (let depth = 1; depth <= 4; depth++) {
      const name = depth === 4 ? path : `chain${depth}.qcow2`
      qemu('create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', `chain${depth - 1}.qcow2`, name)
      const writes = []
      for (let at = depth * MiB; at < GiB; at += 5 * MiB) {
        writes.push('-c', `write -q -P ${depth} ${at} 1M`)
      }
      command('qemu-io', ['-f', 'qcow2', ...writes, name])
    }
  },
  /** Every cluster of 1 TiB mapped, no data behind it. */
  'mapped.qcow2': (path) => qemu('create', '-q', '-f', 'qcow2', '-o', 'preallocation=metadata', path, '1T'),
  /** 512 MiB over an empty base. */
  'overlay.qcow2': (path) => {
    const half = 'overlay.raw'
    withFile(half, GiB, (put) => {
      for (let i = 0; i < 32; i++) {
        put(random(), i * 16 * MiB)
      }
    })
    qemu('convert', '-O', 'qcow2', half, path)
    rmSync(half)
    qemu('create', '-q', '-f', 'qcow2', 'commit-base.qcow2', '1G')
    qemu('rebase', '-u', '-F', 'qcow2', '-b', 'commit-base.qcow2', path)
  },
  /** 512 MiB without holes. */
  'half.raw': (path) => {
    withFile(path, GiB / 2, (put) => {
      for (let i = 0; i < 32; i++) {
        put(random(), i * 16 * MiB)
      }
    })
  },
  'half.vmdk': (path) => qemu('convert', '-O', 'vmdk', image('half.raw'), path),
  'half.vdi': (path) => qemu('convert', '-O', 'vdi', image('half.raw'), path),
  'half.vhdx': (path) => qemu('convert', '-O', 'vhdx', image('half.raw'), path),
  'half.vpc': (path) => qemu('convert', '-O', 'vpc', '-o', 'force_size=on', image('half.raw'), path),
  /** 512 MiB of text and programs, in zlib chunks of 1 MiB. */
  'half.dmg': (path) => {
    const files = installedFiles(GiB / 2)
    const chunks = []
    let at = 0
    withFile(path, undefined, (put) => {
      for (let offset = 0; offset < GiB / 2; offset += MiB) {
        const data = deflateSync(files(offset, MiB))
        chunks.push({ at, bytes: data.length })
        put(data, at)
        at += data.length
      }
      put(diskImageTail(chunks, MiB, at), at)
    })
  },
  'empty.qcow2': (path) => qemu('create', '-q', '-f', 'qcow2', path, '1G'),
  'source.luks': (path) => {
    // qemu-img cannot make one where the clock of CPU time is coarse.
    const options = ['-f', 'luks', '-o', 'key-secret=s,iter-time=10', path, '1G']
    command(ours, ['create', '-q', ...secret, ...options])
  },
}

export const secret = ['--object', 'secret,id=s,data=benchmark']

const script = fileURLToPath(import.meta.url)

/**
 * The name of an image in the current folder, which exists from now on. Made by another process: one that has had
 * gigabytes in memory starts programs more slowly, and starting them is part of what is measured.
 */
export function image(name) {
  if (!existsSync(name)) {
    command(process.execPath, [script, name])
  }
  return name
}

if (process.argv[1] === script) {
  const [, , name] = process.argv
  makers[name](name)
}
