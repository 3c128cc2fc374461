import { expect, test } from 'vitest'
import { allDrivers } from '../all-drivers.js'
import { blockError, ioError } from '../errors/index.js'
import { type BlockDriver, type CheckFix, type CheckResult, createBlockLayer } from '../graph/index.js'
import { MemoryHost } from '../testing/index.js'
import { checkImage, checkReport } from './check.js'
import { openImage } from './open.js'

const clean: CheckResult = {
  corruptions: 0,
  leaks: 0,
  corruptionsFixed: 0,
  leaksFixed: 0,
  checkErrors: 0,
  imageEndOffset: 65536,
  totalClusters: 200,
  allocatedClusters: 30,
  fragmentedClusters: 1,
  compressedClusters: 20,
  messages: [],
}

/** Opens an image of a format whose check is `check`. */
async function opened(check: (fix: CheckFix) => Promise<CheckResult>) {
  const host = new MemoryHost()
  host.put('/image', new Uint8Array(512))
  const toy: BlockDriver = {
    name: 'toy',
    kind: 'format',
    options: {},
    load: () => ({ open: () => ({ length: 512, check, close: () => undefined }) }),
  }
  const layer = createBlockLayer({ host, drivers: [...allDrivers, toy] })
  return await openImage(layer, { filename: '/image', format: 'toy' }, { check: true })
}

test('a repaired image is checked again', async () => {
  const fixes: CheckFix[] = []
  const image = await opened(async (fix) => {
    fixes.push(fix)
    return fixes.length === 1
      ? { ...clean, leaks: 0, leaksFixed: 3, corruptions: 1, corruptionsFixed: 2, messages: ['first'] }
      : { ...clean, leaks: 1, messages: ['second'] }
  })
  const order: unknown[] = []
  const result = await checkImage(image, {
    label: 'name',
    fix: { leaks: true, errors: true },
    message: (line) => order.push(line),
    onRepaired: (leaks, corruptions) => order.push([leaks, corruptions]),
  })
  expect(fixes).toEqual([
    { leaks: true, errors: true },
    { leaks: false, errors: false },
  ])
  expect(order).toEqual(['first', [3, 2], 'second'])
  expect(result).toMatchObject({ repaired: true, exitCode: 3, messages: ['first', 'second'] })
  expect(result.check).toEqual({
    'image-end-offset': 65536,
    'compressed-clusters': 20,
    'total-clusters': 200,
    'corruptions-fixed': 2,
    'check-errors': 0,
    leaks: 1,
    'leaks-fixed': 3,
    'allocated-clusters': 30,
    filename: 'name',
    format: 'toy',
    'fragmented-clusters': 1,
  })
  expect(checkReport(result.check)).toEqual([
    '',
    '1 leaked clusters were found on the image.',
    'This means waste of disk space, but no harm to data.',
    '30/200 = 15.00% allocated, 3.33% fragmented, 66.67% compressed clusters',
    'Image end offset: 65536',
  ])
  await image.close()
})

test.each([
  [{}, 0],
  [{ leaks: 1 }, 3],
  [{ leaks: 1, corruptions: 1 }, 2],
  [{ leaks: 1, corruptions: 1, checkErrors: 1 }, 1],
] as const)('exit code of %j', async (found, exitCode) => {
  const image = await opened(async () => ({ ...clean, ...found }))
  expect((await checkImage(image)).exitCode).toBe(exitCode)
  await image.close()
})

test('what stops a check is told', async () => {
  for (const [error, message] of [
    [ioError('EIO'), 'Check failed: Input/output error'],
    [blockError('ENOTSUP', 'This is too hard'), 'This is too hard'],
  ] as const) {
    const image = await opened(async () => {
      throw error
    })
    await expect(checkImage(image)).rejects.toMatchObject({ message, code: error.code })
    await image.close()
  }
  const image = await opened(async () => clean)
  await expect(checkImage(image, { signal: AbortSignal.abort() })).rejects.toMatchObject({
    code: 'ECANCELED',
  })
  await image.close()
})
