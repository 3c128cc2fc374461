import { expect, expectTypeOf, test } from 'vitest'
import { allDrivers } from '../../src/all-drivers.js'
import { createBlockLayer } from '../../src/graph/index.js'
import {
  type CloopDetails,
  createLibrary,
  type DmgDetails,
  type FormatDetails,
  type VdiDetails,
  type VhdxDetails,
  type VmdkDetails,
  type VpcDetails,
} from '../../src/index.js'
import type { MemoryHost } from '../../src/testing/index.js'
import type { ToolContext } from '../../src/tools/context.js'
import { run as runImg } from '../../src/tools/img/run.js'
import { memoryContext } from '../oracle/text/fixture.js'
import { buildBochs } from './built/bochs.js'
import { buildCloop } from './built/cloop.js'
import { sampleDisk } from './built/disk.js'
import { buildDmg } from './built/dmg.js'
import { buildSparse } from './built/vmdk.js'
import { createImageAt, imagePath, memoryHost } from './format-under-test.js'

/** What the library says, and what the tool prints of the same image. */
async function detailsOf(host: MemoryHost, format: string) {
  const { openImage } = createLibrary({ host })
  const image = await openImage(imagePath, { format })
  const details = (await image.info({ details: true }))['format-details']
  const plain = await image.info()
  await image.close()
  expect(plain).not.toHaveProperty('format-details')
  const printed = async (...more: string[]): Promise<string> => {
    let text = ''
    const context: ToolContext = {
      ...memoryContext().context,
      extras: true,
      stdout: (part) => {
        text += part
      },
      createLayer: async () => createBlockLayer({ host, drivers: allDrivers }),
    }
    expect(await runImg(['info', '--details', '-f', format, ...more, imagePath], context)).toBe(0)
    return text
  }
  const json = (JSON.parse(await printed('--output=json')) as Record<string, unknown>)['format-details']
  return { details, json, text: await printed() }
}

const uuid = expect.stringMatching(/^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/)
const disk = sampleDisk(64 * 512)
const put =
  (bytes: Uint8Array) =>
  (host: MemoryHost): unknown =>
    host.put(imagePath, bytes)
const make =
  (format: string, options: Record<string, string | number | boolean>) =>
  (host: MemoryHost): Promise<void> =>
    createImageAt(host, imagePath, format, { size: 5 << 20, ...options })

test.each<[string, (host: MemoryHost) => unknown, unknown, string]>([
  [
    'vdi',
    make('vdi', { static: true }),
    { kind: 'static', uuid, 'snapshot-uuid': uuid, 'block-size': 1 << 20, blocks: 5, 'allocated-blocks': 5 },
    'allocated blocks: 5',
  ],
  [
    'vpc',
    make('vpc', { force_size: true }),
    {
      kind: 'dynamic',
      uuid,
      created: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.000Z$/),
      'creator-application': 'qem2',
      'creator-version': '5.3',
      'creator-host': 'Wi2k',
      geometry: { cylinders: 65535, heads: 16, sectors: 255 },
      'current-size': 5 << 20,
      'block-size': 2 << 20,
    },
    'creator application: qem2',
  ],
  [
    'vhdx',
    make('vhdx', { block_size: 2 << 20 }),
    {
      kind: 'dynamic',
      'disk-id': uuid,
      'block-size': 2 << 20,
      'logical-sector-size': 512,
      'physical-sector-size': 512,
      'file-write-guid': uuid,
      'data-write-guid': uuid,
      'log-size': 1 << 20,
      'log-in-use': false,
    },
    'log size: 1048576',
  ],
  [
    'vmdk',
    put(buildSparse(false).files.get('sparse.vmdk') as Buffer),
    {
      'adapter-type': 'buslogic',
      'hardware-version': '4',
      cylinders: '12',
      heads: '16',
      sectors: '63',
      uuid: '60 00 C2 93 7b a4 3e 7d-d9 08 1b 2c 3d 4e 5f 60',
    },
    'adapter type: buslogic',
  ],
  [
    'qed',
    make('qed', { table_size: 2 }),
    { 'table-size': 2, 'need-check': false, 'backing-is-raw': false },
    'need check: false',
  ],
  ['qcow', make('qcow', {}), { 'l2-size': 512, encryption: 'none' }, 'l2 size: 512'],
  [
    'parallels',
    make('parallels', { cluster_size: 1 << 20 }),
    {
      kind: 'WithouFreSpacExt',
      'cluster-size': 1 << 20,
      clusters: 5,
      'in-use': false,
      'format-extension': false,
    },
    'in use: false',
  ],
  ['bochs', put(buildBochs(disk)), { 'extent-size': 16384, extents: 2 }, 'extent size: 16384'],
  ['cloop', put(buildCloop(disk)), { 'block-size': 16384, blocks: 2 }, 'blocks: 2'],
  [
    'dmg',
    put(buildDmg(sampleDisk(400 * 512), { kinds: ['zlib', 'raw'] })),
    { chunks: 13, 'zero-chunks': 1, 'ignore-chunks': 1, 'raw-chunks': 5, 'zlib-chunks': 6 },
    'zlib chunks: ',
  ],
])('%s: the library and the tool say the same', async (format, build, data, line) => {
  const host = memoryHost()
  await build(host)
  const { details, json, text } = await detailsOf(host, format)
  expect(details).toEqual({ type: format, data })
  expect(json).toEqual(details)
  expect(text).toMatch(new RegExp(`\\nFormat details:\\n(    .*\\n)*    ${line}`))
})

test('a differencing disk names its parent', async () => {
  const host = memoryHost()
  await createImageAt(host, '/base', 'vpc', { size: 6 << 20, force_size: true })
  await createImageAt(host, imagePath, 'vpc', { size: 6 << 20, backing_file: 'base' })
  const vpc = await detailsOf(host, 'vpc')
  expect(vpc.details).toMatchObject({
    type: 'vpc',
    data: { kind: 'differencing', 'parent-uuid': uuid, 'parent-name': 'base' },
  })
  await createImageAt(host, '/base', 'vhdx', { size: 6 << 20 })
  await createImageAt(host, imagePath, 'vhdx', { size: 6 << 20, backing_file: 'base' })
  const vhdx = await detailsOf(host, 'vhdx')
  expect(vhdx.details).toMatchObject({ data: { kind: 'differencing', parent: { relative_path: '.\\base' } } })
  expect(vhdx.json).toEqual(vhdx.details)
})

test.each(['raw', 'qcow2'])('%s has nothing that QEMU does not show', async (format) => {
  const host = memoryHost()
  await make(format, {})(host)
  const { details, json, text } = await detailsOf(host, format)
  expect([details, json]).toEqual([undefined, undefined])
  expect(text).not.toContain('Format details')
})

test('the type of the details follows from the format', async () => {
  const host = memoryHost()
  await make('vdi', {})(host)
  const { details } = await detailsOf(host, 'vdi')
  if (details?.type !== 'vdi') {
    throw new Error('not a VDI')
  }
  expectTypeOf(details.data).toEqualTypeOf<VdiDetails>()
  expect(details.data.blocks * details.data['block-size']).toBe(5 << 20)
  type DataOf<T extends FormatDetails['type']> = Extract<FormatDetails, { readonly type: T }>['data']
  expectTypeOf<DataOf<'vpc'>>().toEqualTypeOf<VpcDetails>()
  expectTypeOf<DataOf<'vhdx'>>().toEqualTypeOf<VhdxDetails>()
  expectTypeOf<DataOf<'vmdk'>>().toEqualTypeOf<VmdkDetails>()
  expectTypeOf<DataOf<'cloop'>>().toEqualTypeOf<CloopDetails>()
  expectTypeOf<DataOf<'dmg'>>().toEqualTypeOf<DmgDetails>()
  expectTypeOf<DmgDetails['lzfse-chunks']>().toEqualTypeOf<number | undefined>()
})
