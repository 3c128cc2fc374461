// How time and memory grow with an image's size, the depth of its chain and its fragmentation.
import { rmSync } from 'node:fs'
import { command, footprint, ours, qemu } from './measure.mjs'

const MiB = 1 << 20
const GiB = 1 << 30

/** `pieces` pieces of 64 KiB spread over the image, in the order of `order`. */
function write(name, bytes, pieces, order = (i) => i) {
  const step = Math.floor(bytes / pieces / 65536) * 65536
  for (let done = 0; done < pieces; done += 1024) {
    const writes = []
    for (let i = done; i < Math.min(done + 1024, pieces); i++) {
      writes.push('-c', `write -q -P ${(i % 255) + 1} ${order(i) * step} 64k`)
    }
    command('qemu-io', ['-f', 'qcow2', ...writes, name])
  }
}

function readTime(name, size, depth = 1) {
  // `bench` takes no step of 2 GiB.
  const step = Math.min(Math.floor(size / 1024 / 65536) * 65536, 2 * GiB - 131072) + 65536
  const args = ['-f', 'qcow2', '-d', String(depth), '-c', '20000', '-S', String(step), name]
  return Number(/completed in ([\d.]+)/.exec(command(ours, ['bench', ...args]).stdout)[1]) / 20000
}

function row(name, size) {
  const open = footprint(['info', name])
  const check = footprint(['check', '-q', name])
  const convert = footprint(['convert', '-f', 'qcow2', '-O', 'qcow2', name, 'grown.qcow2'])
  rmSync('grown.qcow2')
  return {
    'open ms': open.seconds * 1000,
    'open MiB': open.peak,
    'read us': readTime(name, size) * 1e6,
    'check ms': check.seconds * 1000,
    'check MiB': check.peak,
    'convert ms': convert.seconds * 1000,
    'convert MiB': convert.peak,
  }
}

/** Rows by name: what one image costs us. */
export function growth() {
  const rows = {}
  for (const [label, size] of [
    ['1 GiB', GiB],
    ['64 GiB', 64 * GiB],
    ['1 TiB', 1024 * GiB],
    ['64 TiB', 65536 * GiB],
  ]) {
    qemu('create', '-q', '-f', 'qcow2', 'size.qcow2', String(size))
    write('size.qcow2', size, 1024)
    rows[`64 MiB of data in ${label}`] = row('size.qcow2', size)
    rmSync('size.qcow2')
  }
  for (const depth of [1, 4, 16, 64]) {
    for (let i = 0; i <= depth; i++) {
      const backing = i === 0 ? [] : ['-F', 'qcow2', '-b', `depth${i - 1}.qcow2`]
      qemu('create', '-q', '-f', 'qcow2', ...backing, `depth${i}.qcow2`, '1G')
      if (i === 0) {
        write('depth0.qcow2', GiB, 1024)
      }
    }
    rows[`64 MiB of data under ${depth} overlays`] = row(`depth${depth}.qcow2`, GiB)
    for (let i = 0; i <= depth; i++) {
      rmSync(`depth${i}.qcow2`)
    }
  }
  for (const [label, order] of [
    ['in order', (i) => i],
    ['every 37th', (i) => (i * 37) % 4096],
    ['backwards', (i) => 4095 - i],
  ]) {
    qemu('create', '-q', '-f', 'qcow2', 'pieces.qcow2', String(256 * MiB))
    write('pieces.qcow2', 256 * MiB, 4096, order)
    rows[`256 MiB written ${label}`] = row('pieces.qcow2', 256 * MiB)
    rmSync('pieces.qcow2')
  }
  return rows
}
