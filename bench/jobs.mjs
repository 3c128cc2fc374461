// What is measured beside QEMU, and the speed ratio that is wanted.
import { copyFileSync, rmSync } from 'node:fs'
import { formats } from './formats.mjs'
import { image, secret } from './images.mjs'
import { benchPair, commandPair, qemu } from './measure.mjs'

const uring = { theirs: ['-i', 'io_uring'] }
/** Offsets in no order that a disk or a table would like: a prime number of blocks apart. */
const scattered = ['-S', String(7919 * 4096)]
const fresh = (name) => () => rmSync(name, { force: true })

function requests(name, format, depth, count, more = []) {
  return () =>
    benchPair(
      ['-f', format, '-d', String(depth), '-c', String(count), ...scattered, ...more, image(name)],
      uring,
    )
}

function convert(from, source, to, ...more) {
  return () =>
    commandPair(['convert', ...more, '-f', from, '-O', to, image(source), `out.${to}`], fresh(`out.${to}`))
}

/** name: [least ratio wanted, makes the pair] */
export const jobs = {
  'raw 4 KiB reads, depth 1': [2.5, requests('noise.raw', 'raw', 1, 150000)],
  'raw 4 KiB reads, depth 64': [2, requests('noise.raw', 'raw', 64, 150000)],
  'qcow2 4 KiB reads, depth 1': [2, requests('noise.qcow2', 'qcow2', 1, 150000)],
  'qcow2 4 KiB reads, depth 64': [1.5, requests('noise.qcow2', 'qcow2', 64, 150000)],
  'qcow2 over 4 backing files, 4 KiB reads, depth 16': [1.5, requests('chain4.qcow2', 'qcow2', 16, 150000)],
  'qcow2 4 KiB overwrites, depth 1': [2, requests('overwritten.qcow2', 'qcow2', 1, 100000, ['-w'])],
  'qcow2 4 KiB overwrites, depth 64': [1.2, requests('overwritten.qcow2', 'qcow2', 64, 100000, ['-w'])],
  'qcow2 allocating 64 KiB writes, depth 16': [
    1.2,
    () =>
      benchPair(['-w', '-f', 'qcow2', '-d', '16', '-c', '16384', '-s', '65536', 'fresh.qcow2'], {
        ...uring,
        prepare: () => qemu('create', '-q', '-f', 'qcow2', 'fresh.qcow2', '1G'),
      }),
  ],
  'raw 4 KiB reads, O_DIRECT, depth 64': [0.95, requests('noise.raw', 'raw', 64, 40000, ['-t', 'none'])],
  'convert 1 GiB raw to qcow2': [1.2, convert('raw', 'noise.raw', 'qcow2')],
  'convert 1 GiB qcow2 to raw': [1.2, convert('qcow2', 'noise.qcow2', 'raw')],
  'convert 1 GiB raw to raw': [2, convert('raw', 'noise.raw', 'raw')],
  'convert 1 GiB with holes raw to qcow2': [1, convert('raw', 'source.raw', 'qcow2')],
  'convert 64 GiB scattered raw to qcow2': [1, convert('raw', 'scattered.raw', 'qcow2')],
  'convert -c 1 GiB, zlib': [2.5, convert('raw', 'mixed.raw', 'qcow2', '-c')],
  'convert -c 1 GiB, zstd': [1.3, convert('raw', 'mixed.raw', 'qcow2', '-c', '-o', 'compression_type=zstd')],
  'compressed qcow2 (zlib) to raw': [1.5, convert('qcow2', 'mixed.zlib.qcow2', 'raw')],
  'check of 1 TiB mapped': [1, () => commandPair(['check', image('mapped.qcow2')])],
  'compare 1 GiB raw with qcow2': [
    1,
    () => commandPair(['compare', '-f', 'raw', '-F', 'qcow2', image('noise.raw'), image('noise.qcow2')]),
  ],
  'commit of 512 MiB': [
    1,
    () => {
      image('overlay.qcow2')
      return commandPair(['commit', '-q', 'top.qcow2'], () => {
        qemu('create', '-q', '-f', 'qcow2', 'commit-base.qcow2', '1G')
        copyFileSync('overlay.qcow2', 'top.qcow2')
      })
    },
  ],
  'rebase of 512 MiB': [
    1,
    () => {
      image('overlay.qcow2')
      image('empty.qcow2')
      return commandPair(['rebase', '-F', 'qcow2', '-b', 'empty.qcow2', 'top.qcow2'], () =>
        qemu('create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', 'overlay.qcow2', 'top.qcow2'),
      )
    },
  ],
  'encrypt 1 GiB raw to luks': [
    1,
    () => {
      image('source.luks')
      return commandPair([
        'convert',
        ...secret,
        '-n',
        '--target-image-opts',
        '-S',
        '0',
        '-f',
        'raw',
        image('source.raw'),
        luks,
      ])
    },
  ],
  'decrypt 1 GiB luks to raw': [
    1,
    () => {
      image('source.luks')
      return commandPair(
        ['convert', ...secret, '--image-opts', '-O', 'raw', luks, 'out.raw'],
        fresh('out.raw'),
      )
    },
  ],
  ...formats,
  'info on a small image': [0.2, () => commandPair(['info', image('empty.qcow2')])],
}

const luks = 'driver=luks,key-secret=s,file.filename=source.luks'
