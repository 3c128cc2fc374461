import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { allDrivers } from '../../../src/all-drivers.js'
import { createBlockLayer } from '../../../src/graph/index.js'
import { collectImageInfo } from '../../../src/image/index.js'
import { createNodeHost } from '../../../src/platform/node/index.js'

let folder: string
const uuid = expect.stringMatching(/^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/)

beforeAll(() => {
  folder = fs.mkdtempSync(join(tmpdir(), 'blockgraph-details-'))
})

afterAll(() => {
  fs.rmSync(folder, { recursive: true, force: true })
})

/** What is said of an image that QEMU made. */
async function detailsOf(format: string, options: string): Promise<unknown> {
  const path = join(folder, `${format}-${options.replaceAll(/[^a-z]/gi, '')}`)
  const o = options === '' ? [] : ['-o', options]
  execFileSync('qemu-img', ['create', '-q', '-f', format, ...o, path, '5M'])
  const layer = createBlockLayer({ host: createNodeHost(), drivers: allDrivers })
  try {
    const [plain] = await collectImageInfo(layer, { filename: path, format })
    expect(plain).not.toHaveProperty('format-details')
    const [info] = await collectImageInfo(layer, { filename: path, format }, { details: true })
    const { 'format-details': details, ...rest } = info ?? {}
    expect(rest).toEqual(plain)
    return details
  } finally {
    await layer.closeAll()
  }
}

test.each([
  [
    'vdi',
    'static=on',
    {
      kind: 'static',
      uuid,
      'snapshot-uuid': uuid,
      'block-size': 1048576,
      blocks: 5,
      'allocated-blocks': 5,
    },
  ],
  [
    'vpc',
    'subformat=fixed',
    {
      kind: 'fixed',
      uuid,
      created: expect.stringMatching(/^20\d\d-\d\d-\d\dT/),
      'creator-application': 'qemu',
      'creator-version': '5.3',
      'creator-host': 'Wi2k',
      geometry: { cylinders: 151, heads: 4, sectors: 17 },
      'current-size': 5257216,
    },
  ],
  ['vpc', 'force_size=on', { kind: 'dynamic', 'creator-application': 'qem2', 'block-size': 2097152 }],
  [
    'vhdx',
    'block_size=2M',
    {
      kind: 'dynamic',
      'disk-id': uuid,
      'block-size': 2097152,
      'logical-sector-size': 512,
      'physical-sector-size': 512,
      'file-write-guid': uuid,
      'data-write-guid': uuid,
      'log-size': 1048576,
      'log-in-use': false,
    },
  ],
  ['vhdx', 'subformat=fixed', { kind: 'fixed' }],
  [
    'vmdk',
    'adapter_type=lsilogic,hwversion=7',
    {
      'adapter-type': 'lsilogic',
      'hardware-version': '7',
      'tools-version': '2147483647',
      cylinders: '0',
      heads: '255',
      sectors: '63',
    },
  ],
  ['qed', 'table_size=2', { 'table-size': 2, 'need-check': false, 'backing-is-raw': false }],
  ['qcow', '', { 'l2-size': 512, encryption: 'none' }],
  [
    'parallels',
    'cluster_size=1M',
    {
      kind: 'WithouFreSpacExt',
      'cluster-size': 1048576,
      clusters: 5,
      'in-use': false,
      'format-extension': false,
    },
  ],
  ['raw', '', undefined],
])('%s %s', async (format, options, expected) => {
  const details = await detailsOf(format, options)
  if (expected === undefined) {
    expect(details).toBeUndefined()
  } else {
    expect(details).toMatchObject({ type: format, data: expected })
  }
})
