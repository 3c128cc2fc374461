import fs from 'node:fs'
import path from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { Random } from '../../../src/drivers/format/qcow2/image-fixture.js'
import * as io from '../io/qemu-io.js'
import { Folder, firstDifference, ours, theirs } from './tools.js'

/**
 * Extended L2 entries and external data files: the same commands by the oracle and by us, each on an
 * image of its own. What they say and the bytes of all files are equal; then each reads the other's.
 */
const folder = new Folder()
afterAll(() => folder.remove())

interface Shape {
  readonly name: string
  readonly options: string
  readonly clusterSize: number
  readonly dataFile: boolean
  readonly backed: boolean
}

const shapes: readonly Shape[] = [
  { name: 'extended', options: 'extended_l2=on', clusterSize: 16384, dataFile: false, backed: false },
  { name: 'extended backed', options: 'extended_l2=on', clusterSize: 65536, dataFile: false, backed: true },
  { name: 'data file', options: 'data_file=data', clusterSize: 4096, dataFile: true, backed: false },
  { name: 'data file backed', options: 'data_file=data', clusterSize: 65536, dataFile: true, backed: true },
  {
    name: 'raw data file',
    options: 'data_file=data,data_file_raw=on',
    clusterSize: 4096,
    dataFile: true,
    backed: false,
  },
  {
    name: 'extended with data file',
    options: 'extended_l2=on,data_file=data',
    clusterSize: 32768,
    dataFile: true,
    backed: true,
  },
]

/** Random requests in the language of qemu-io. */
function requests(random: Random, size: number, { clusterSize, dataFile }: Shape): string[] {
  const commands: string[] = []
  for (let i = 0; i < 14; i++) {
    const unit = random.pick([512, clusterSize / 8, clusterSize])
    const start = random.below(size / unit) * unit
    const bytes = Math.min(
      size - start,
      random.pick([512, clusterSize / 8, clusterSize, clusterSize * 3]) * (1 + random.below(3)),
    )
    const kind = random.below(20)
    const cluster = start - (start % clusterSize)
    if (kind < 10) {
      commands.push(`write -P ${1 + random.below(254)} ${start} ${bytes}`)
    } else if (kind < 13) {
      commands.push(`write -z ${start} ${bytes}`)
    } else if (kind < 16) {
      commands.push(`write -z -u ${start} ${bytes}`)
    } else if (kind < 19) {
      commands.push(`discard ${start} ${bytes}`)
    } else if (!dataFile && cluster + clusterSize <= size) {
      commands.push(`write -c -P 7 ${cluster} ${clusterSize}`)
    }
  }
  return commands
}

type Tool = 'ours' | 'theirs'

async function img(tool: Tool, cwd: string, ...args: string[]) {
  return tool === 'ours' ? await ours(cwd, ...args) : theirs(cwd, ...args)
}

/** Runs one script with one tool and gives what it said. */
async function play(tool: Tool, cwd: string, shape: Shape, size: number, script: readonly string[]) {
  const said: unknown[] = []
  const backing: string[] = []
  if (shape.backed) {
    const bytes = Math.floor((size * 3) / 4 / 512) * 512
    fs.writeFileSync(path.join(cwd, 'base'), new Uint8Array(bytes).fill(0xbb))
    backing.push('-b', 'base', '-F', 'raw')
  }
  const options = `cluster_size=${shape.clusterSize},${shape.options}`
  said.push(await img(tool, cwd, 'create', '-f', 'qcow2', '-o', options, ...backing, 'image', String(size)))
  const argv = ['-d', 'unmap', ...script.flatMap((command) => ['-c', command]), 'image']
  said.push(tool === 'ours' ? await io.ours(argv, cwd) : io.theirs(argv, cwd))
  for (const args of [
    ['map', '--output=json', 'image'],
    ['check', 'image'],
    ['check', '--output=json', 'image'],
  ]) {
    said.push(await img(tool, cwd, ...args))
  }
  return said
}

describe.each(shapes)('$name', (shape) => {
  test.each([1, 2, 3])('random requests, seed %i', async (seed) => {
    const random = new Random(seed * 1000 + shape.clusterSize + shape.options.length)
    const size = shape.clusterSize * random.pick([3, 20, 50]) + 512 * random.below(shape.clusterSize / 512)
    const script = requests(random, size, shape)
    const [left, right] = [folder.sub(`${shape.name}-${seed}-o`), folder.sub(`${shape.name}-${seed}-t`)]
    const said = await play('ours', left, shape, size, script)
    expect(said, script.join('; ')).toEqual(await play('theirs', right, shape, size, script))
    for (const file of shape.dataFile ? ['image', 'data'] : ['image']) {
      const [a, b] = [left, right].map((cwd) => new Uint8Array(fs.readFileSync(path.join(cwd, file))))
      expect(firstDifference(a as Uint8Array, b as Uint8Array), script.join('; ')).toBeUndefined()
    }
    expect(theirs(left, 'convert', '-O', 'raw', 'image', 'as-theirs').stderr).toBe('')
    expect((await ours(right, 'convert', '-O', 'raw', 'image', 'as-ours')).stderr).toBe('')
    const [a, b] = [path.join(left, 'as-theirs'), path.join(right, 'as-ours')].map((name) =>
      fs.readFileSync(name),
    )
    expect(firstDifference(a as Uint8Array, b as Uint8Array)).toBeUndefined()
  })
})

/** Commands in a row, each by both tools in folders of their own. */
const sequences: readonly { readonly name: string; readonly steps: readonly string[] }[] = [
  {
    name: 'what create refuses',
    steps: [
      'create -f qcow2 -o extended_l2=on,cluster_size=8k bad 3M',
      'create -f qcow2 -o extended_l2=on,compat=0.10 bad 3M',
      'create -f qcow2 -o data_file_raw=on bad 1M',
      'create -f qcow2 -o data_file=x,compat=0.10 bad 1M',
      'create -f qcow2 -o data_file=/nonexistent/x bad 1M',
      'create -f qcow2 -o data_file= bad 1M',
      'create -f qcow2 -o data_file=x,data_file_raw=on,backing_file=b,backing_fmt=raw bad 1M',
    ],
  },
  {
    name: 'snapshots of an image with extended L2 entries',
    steps: [
      'create -f qcow2 -o extended_l2=on,cluster_size=32k a 3000k',
      'io write -P 1 0 100k',
      'snapshot -c one a',
      'io write -P 3 5k 1k',
      'io write -z 40k 2k',
      'check a',
      'map --output=json a',
      'snapshot -a one a',
      'io discard 0 32k',
      'io write -P 5 34k 1k',
      'snapshot -d one a',
      'check a',
      'map --output=json a',
      'amend -o compat=0.10 a',
      'resize --shrink a 64k',
      'check a',
      'measure -O qcow2 -o extended_l2=on,cluster_size=16k --size 10G',
      'measure -O qcow2 -o extended_l2=on a',
    ],
  },
  {
    name: 'an external data file through its life',
    steps: [
      'create -f qcow2 -o data_file=d.raw a 10M',
      'io write -P 1 0 100k',
      'io write -c 128k 64k',
      'map a',
      'map --output=json a',
      'snapshot -c x a',
      'amend -o data_file_raw=on a',
      'amend -o compat=0.10 a',
      'amend -o data_file=e.raw a',
      'map a',
      'info a',
      'map --output=json --image-opts driver=qcow2,file.filename=a,data-file.filename=d.raw',
      'amend --image-opts -o data_file= driver=qcow2,file.filename=a,data-file.filename=d.raw',
      'map a',
      'amend --image-opts -o data_file=d.raw driver=qcow2,file.filename=a,data-file.filename=d.raw',
      'resize a 20M',
      'resize --preallocation=metadata a 21M',
      'resize --preallocation=full a 22M',
      'resize --shrink a 5M',
      'check a',
      'create -q -f qcow2 n 1M',
      'map --image-opts driver=qcow2,file.filename=n,data-file.filename=d.raw',
      'map --image-opts driver=qcow2,file.filename=n,data-file=foo',
      'amend -o data_file=zz n',
      'amend -o data_file_raw=on n',
      'convert -O qcow2 -o data_file=c.raw,data_file_raw=on a c',
      'map --output=json c',
      'create -f qcow2 -o data_file=p.raw,preallocation=full p 1M',
      'rebase -u -b n -F qcow2 c',
    ],
  },
]

test.each(sequences)('$name', async ({ name, steps }) => {
  const folders = { ours: folder.sub(`${name}-o`), theirs: folder.sub(`${name}-t`) }
  for (const step of steps) {
    const said: unknown[] = []
    for (const tool of ['ours', 'theirs'] as const) {
      const cwd = folders[tool]
      if (step.startsWith('io ')) {
        const argv = ['-d', 'unmap', '-c', step.slice(3), 'a']
        said.push(tool === 'ours' ? await io.ours(argv, cwd) : io.theirs(argv, cwd))
      } else {
        const outcome = await img(tool, cwd, ...step.split(' '))
        said.push({ ...outcome, stdout: outcome.stdout.replace(/^disk size: .*$/m, '') })
      }
    }
    expect(said[0], step).toEqual(said[1])
    const files = fs.readdirSync(folders.theirs).sort()
    expect(fs.readdirSync(folders.ours).sort(), step).toEqual(files)
    const sizes = (cwd: string) => files.map((file) => [file, fs.statSync(path.join(cwd, file)).size])
    expect(sizes(folders.ours), step).toEqual(sizes(folders.theirs))
  }
})
