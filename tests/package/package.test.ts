import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'

/** The package as a user gets it: packed, installed into an empty project, run from there. */
const root = fileURLToPath(new URL('../..', import.meta.url))
let project: string

beforeAll(() => {
  if (!existsSync(join(root, 'dist/index.js'))) {
    execFileSync(process.execPath, ['scripts/build.mjs'], { cwd: root, stdio: 'pipe' })
  }
  project = mkdtempSync(join(tmpdir(), 'blockgraph-package-'))
  const packed = execFileSync('npm', ['pack', '--ignore-scripts', '--json', '--pack-destination', project], {
    cwd: root,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  const listing: unknown = JSON.parse(packed)
  const entries = Array.isArray(listing) ? listing : Object.values(listing as object)
  const [{ filename }] = entries as [{ filename: string }]
  const installed = join(project, 'node_modules/blockgraph')
  mkdirSync(installed, { recursive: true })
  execFileSync('tar', ['-xzf', join(project, filename), '-C', installed, '--strip-components=1'])
  // Its dependencies, without asking the network again.
  const { dependencies = {}, optionalDependencies = {} } = JSON.parse(
    readFileSync(join(root, 'package.json'), 'utf8'),
  ) as Record<string, Record<string, string> | undefined>
  for (const name of [...Object.keys(dependencies), ...Object.keys(optionalDependencies), '@koromix']) {
    const target = join(project, 'node_modules', name)
    mkdirSync(join(target, '..'), { recursive: true })
    symlinkSync(join(root, 'node_modules', name), target)
  }
  writeFileSync(
    join(project, 'package.json'),
    JSON.stringify({ name: 'project', private: true, type: 'module' }),
  )
})

afterAll(() => {
  rmSync(project, { recursive: true, force: true })
})

function run(program: string, ...args: string[]): string {
  return execFileSync(program, args, { cwd: project, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
}

test('the installed tools do the main job, also under the name qemu-img', () => {
  const tool = join(project, 'node_modules/blockgraph/bin/blockgraph-img')
  const link = join(project, 'qemu-img')
  symlinkSync(tool, link)
  expect(run(tool, 'create', '-f', 'qcow2', 'a.qcow2', '1M')).toContain("Formatting 'a.qcow2', fmt=qcow2")
  expect(run(link, 'info', 'a.qcow2')).toBe(run('qemu-img', 'info', 'a.qcow2'))
  expect(() => run(link, 'info', 'gone')).toThrow("qemu-img: Could not open 'gone'")
  expect(() => run(tool, 'info', 'gone')).toThrow("blockgraph-img: Could not open 'gone'")
  const nbd = join(project, 'node_modules/blockgraph/bin/blockgraph-nbd')
  expect(run(nbd, '--version')).toContain('qemu-nbd')
  const io = join(project, 'node_modules/blockgraph/bin/blockgraph-io')
  expect(run(io, '-c', 'length', 'a.qcow2')).toBe(run('qemu-io', '-c', 'length', 'a.qcow2'))
  const umbrella = join(project, 'node_modules/blockgraph/bin/blockgraph')
  expect(run(umbrella, 'io', '-c', 'length', 'a.qcow2')).toBe('1 MiB\n')
  expect(run(umbrella, 'info', 'a.qcow2')).toBe(run('qemu-img', 'info', 'a.qcow2'))
  expect(run(umbrella, 'img', 'info', 'a.qcow2')).toBe(run('qemu-img', 'info', 'a.qcow2'))
})

test('the engine takes the code cache in the package', () => {
  const launch = join(project, 'node_modules/blockgraph/dist/tools/launch.cjs')
  const code = `console.log(require(${JSON.stringify(launch)}).loadTools().needsCache)`
  expect(run(process.execPath, '-e', code)).toBe('false\n')
})

/** The code blocks of a section of a document. */
function codeOf(document: string, heading: string): string[] {
  const text = readFileSync(join(root, document), 'utf8')
  const section = text.split(/^## /m).find((part) => part.startsWith(heading)) ?? ''
  return [...section.matchAll(/```ts\n([\s\S]*?)```/g)].map((match) => match[1] ?? '')
}

test('the page "Add a driver" works when followed to the letter', () => {
  const [driver, use] = codeOf('CONTRIBUTING.md', 'Add a driver')
  if (driver === undefined || use === undefined) {
    throw new Error('the page has lost its code')
  }
  const header = Buffer.alloc(512)
  header.write('TOY!')
  const data = Buffer.alloc(65536, 'toy data ')
  writeFileSync(join(project, 'disk.toy'), Buffer.concat([header, data]))
  const plain = (code: string) => code.replace(/^import type .*\n/m, '').replace(': BlockDriver', '')
  const script = `${plain(use).replace(/\nconst \{/, `\n${plain(driver).replace('export ', '')}\nconst {`)}
const buffer = new Uint8Array(9)
await image.read(0, buffer)
console.log(image.format, image.size, Buffer.from(buffer).toString())
`
  // \`await using\` is compiled away: Node 20 does not know it yet.
  const runnable = script.replace('await using image', 'const image')
  writeFileSync(join(project, 'toy.mjs'), runnable)
  expect(run(process.execPath, 'toy.mjs')).toBe('toy 65536 toy data \n')
  writeFileSync(join(project, 'plain.raw'), data)
  expect(run('qemu-img', 'compare', 'plain.raw', 'disk.qcow2')).toContain('Images are identical.')
})

test('I/O threads find their script in the installed package', () => {
  writeFileSync(
    join(project, 'thread.mjs'),
    `import { allDrivers, Backend, createBlockLayer, createIoThread, createNodeHost } from 'blockgraph'
import { readFileSync, writeFileSync } from 'node:fs'
writeFileSync('thread.raw', 'disk'.padEnd(4096, '.'))
const layer = createBlockLayer({ host: createNodeHost(), drivers: allDrivers })
const device = await Backend.open(layer, 'thread.raw', { driver: 'raw' }, {}, { name: 'd' })
const { thread } = await createIoThread(layer, 'io0').then(async (context) => {
  await device.setAioContext(context)
  return context
})
const moved = () => Number(/^rchar: (\\d+)/m.exec(readFileSync(\`/proc/self/task/\${thread.id}/io\`, 'utf8'))[1])
const before = moved()
const buffer = new Uint8Array(4096)
await device.read(0, 4096, buffer)
console.log(Buffer.from(buffer).toString().slice(0, 6), moved() - before)
`,
  )
  expect(run(process.execPath, 'thread.mjs')).toBe('disk.. 4096\n')
})

test('the types of the package are complete', () => {
  writeFileSync(
    join(project, 'use.ts'),
    `import { openImage, type BlockError } from 'blockgraph'
export async function size(name: string): Promise<number> {
  await using image = await openImage(name)
  return image.size
}
export type Failure = BlockError['code']
`,
  )
  writeFileSync(
    join(project, 'tsconfig.json'),
    JSON.stringify({
      compilerOptions: {
        strict: true,
        noEmit: true,
        target: 'ES2022',
        module: 'NodeNext',
        types: ['node'],
        typeRoots: [join(root, 'node_modules/@types')],
        lib: ['ES2023', 'ESNext.Disposable'],
      },
      include: ['use.ts'],
    }),
  )
  run(process.execPath, join(root, 'node_modules/typescript/bin/tsc'), '-p', '.')
})
