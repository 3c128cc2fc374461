import { expect, test } from 'vitest'
import { Mutex } from './mutex.js'

test('owners come in the order in which they asked, one at a time', async () => {
  const mutex = new Mutex()
  const order: string[] = []
  const owner = async (name: string, steps: number): Promise<void> =>
    await mutex.run(async () => {
      for (let i = 0; i < steps; i++) {
        order.push(name)
        await Promise.resolve()
      }
    })
  await Promise.all([owner('a', 3), owner('b', 1), owner('c', 2)])
  expect(order.join('')).toBe('aaabcc')
})

test('a failure passes the lock on', async () => {
  const mutex = new Mutex()
  const failing = mutex.run(() => {
    throw new Error('no')
  })
  const next = mutex.run(() => 'yes')
  await expect(failing).rejects.toThrow('no')
  expect(await next).toBe('yes')
  expect(mutex.locked).toBe(false)
})

test('who comes while it is passed on queues behind those who wait', async () => {
  const mutex = new Mutex()
  const order: string[] = []
  expect(mutex.lock()).toBeUndefined()
  const waiting = mutex.run(() => order.push('waited'))
  mutex.unlock()
  expect(mutex.locked).toBe(false)
  const late = mutex.run(() => order.push('late'))
  await Promise.all([waiting, late])
  expect(order).toEqual(['waited', 'late'])
})

test('somebody is never inside together with somebody else', async () => {
  const mutex = new Mutex()
  let inside = 0
  const visit = async (): Promise<void> => {
    for (let i = 0; i < 50; i++) {
      await mutex.run(async () => {
        inside++
        await Promise.resolve()
        expect(inside).toBe(1)
        inside--
      })
      if (!mutex.locked) {
        expect(inside).toBe(0)
      }
    }
  }
  await Promise.all([visit(), visit(), visit(), visit()])
})
