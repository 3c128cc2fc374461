import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { backup, commit, createLibrary, mirror, stream } from '../index.js'

const folder = mkdtempSync(join(tmpdir(), 'blockgraph-image-jobs-'))
const size = 4 << 20
const library = createLibrary()
const { createImage, openImage, compareImages } = library
const path = (name: string): string => join(folder, name)

beforeAll(async () => {
  await createImage({ filename: path('base'), format: 'qcow2', size })
  await createImage({
    filename: path('top'),
    format: 'qcow2',
    backing: { file: path('base'), format: 'qcow2' },
  })
  for (const [name, at] of [
    ['base', 0],
    ['top', 1 << 20],
  ] as const) {
    await using image = await openImage(path(name), { readOnly: false })
    await image.write(at, new Uint8Array(1 << 20).fill(at + 1))
  }
})

afterAll(async () => {
  await library.layer.closeAll()
  rmSync(folder, { recursive: true })
})

test('a backup of an image that is in use, with its progress', async () => {
  await createImage({ filename: path('copy'), format: 'qcow2', size })
  await createImage({ filename: path('before'), format: 'raw', size })
  {
    await using image = await openImage(path('top'), { readOnly: false })
    const before = await image.read(0, size)
    await using reference = await openImage(path('before'), { readOnly: false, format: 'raw' })
    await reference.write(0, before)
    const job = await backup(image, { target: path('copy') })
    await image.write(3 << 20, new Uint8Array(1000).fill(7))
    let last = 0
    for await (const { offset } of job.progress) {
      last = offset
    }
    await job.wait()
    expect(last).toBe(size)
  }
  expect((await compareImages(path('copy'), { filename: path('before'), format: 'raw' })).identical).toBe(
    true,
  )
})

test('a mirror takes the place of the image', async () => {
  await createImage({ filename: path('new'), format: 'qcow2', size })
  await using image = await openImage(path('top'), { readOnly: false })
  const before = await image.read(0, size)
  const job = await mirror(image, { target: path('new'), copyMode: 'write-blocking', speed: 1 << 30 })
  while (!job.isReady) {
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  await job.complete()
  await job.wait()
  expect(image.filename).toBe(path('new'))
  expect(Buffer.compare(await image.read(0, size), before)).toBe(0)
})

test('stream and commit', async () => {
  await using image = await openImage(path('top'), { readOnly: false })
  const before = await image.read(0, size)
  await expect(stream(image, { base: 'nonsense' })).rejects.toThrow("Did not find 'nonsense'")
  const down = await commit(image)
  while (!down.isReady) {
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  down.cancel(false)
  await down.wait()
  const up = await stream(image)
  await up.wait()
  expect(image.node.backing).toBe(undefined)
  expect(Buffer.compare(await image.read(0, size), before)).toBe(0)
  await expect(commit(image)).rejects.toThrow('Image does not have a backing file')
})

test('a signal cancels', async () => {
  await createImage({ filename: path('never'), format: 'qcow2', size })
  await using image = await openImage(path('top'), { readOnly: false })
  const controller = new AbortController()
  const job = await mirror(image, { target: path('never'), signal: controller.signal })
  controller.abort()
  await expect(job.wait()).rejects.toMatchObject({ code: 'ECANCELED' })
  const again = await backup(image, { target: path('never'), signal: controller.signal })
  await expect(again.wait()).rejects.toMatchObject({ code: 'ECANCELED' })
  await expect(mirror(image, { target: path('top') })).rejects.toThrow()
})
