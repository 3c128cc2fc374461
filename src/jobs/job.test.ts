import { expect, test } from 'vitest'
import { blockError, ioError } from '../errors/index.js'
import { createBlockLayer } from '../graph/index.js'
import { FakeClock, MemoryHost } from '../testing/index.js'
import { BlockJob, type BlockJobDriver, type BlockJobOptions } from './block-job.js'
import { Job, type JobDriver } from './job.js'
import { JobRegistry } from './registry.js'
import { accepts, type JobStatus, jobStatuses, jobVerbs } from './states.js'
import { JobTransaction } from './transaction.js'

function world(clock = new FakeClock()) {
  const layer = createBlockLayer({ host: new MemoryHost({ clock }), drivers: [] })
  const home = JobRegistry.of(layer)
  const events: string[] = []
  layer.events.on(({ event, data }) => {
    events.push(event === 'JOB_STATUS_CHANGE' ? `${String(data.id)}:${String(data.status)}` : event)
  })
  return { layer, home, events, clock }
}

/** A job that works until it is told to end, and is ready at once if it can be completed. */
class Scripted implements BlockJobDriver {
  readonly type = 'mirror'
  readonly calls: string[] = []
  failure: unknown = undefined
  prepareFailure: unknown = undefined
  readonly ready: boolean
  readonly soft: boolean
  #ending = false

  constructor(ready = false, soft = false) {
    this.ready = ready
    this.soft = soft
  }

  async run(job: Job): Promise<void> {
    if (this.ready && !job.isCancelled) {
      job.becomeReady()
    }
    while (!this.#ending && !job.cancelRequested) {
      await job.yield()
    }
    if (this.failure !== undefined) {
      throw this.failure
    }
  }

  end(job: Job): void {
    this.#ending = true
    job.enter()
  }

  complete(job: Job): void {
    this.end(job)
  }

  cancel(job: Job, force: boolean): boolean {
    return force || !this.soft || !job.isReady
  }

  prepare(): void {
    this.calls.push('prepare')
    if (this.prepareFailure !== undefined) {
      throw this.prepareFailure
    }
  }

  commit(): void {
    this.calls.push('commit')
  }

  abort(): void {
    this.calls.push('abort')
  }

  clean(): void {
    this.calls.push('clean')
  }
}

async function settle(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve))
}

/** A job in the given state. */
async function jobIn(status: JobStatus): Promise<{ job: BlockJob; home: JobRegistry }> {
  const { home } = world()
  const driver = new Scripted(status === 'ready' || status === 'standby')
  const transaction = new JobTransaction()
  const options: BlockJobOptions = {
    id: 'j',
    autoFinalize: false,
    autoDismiss: status === 'null',
    transaction,
  }
  const job = new BlockJob(home, driver, options)
  switch (status) {
    case 'created':
      return { job, home }
    case 'paused':
    case 'standby':
      job.start()
      await settle()
      job.pause()
      break
    case 'waiting': {
      const other = new BlockJob(home, new Scripted(), { id: 'other', transaction })
      other.start()
      job.start()
      driver.end(job)
      break
    }
    case 'pending':
    case 'concluded':
    case 'null':
      job.start()
      driver.end(job)
      await settle()
      if (status !== 'pending') {
        await job.finalize()
      }
      break
    case 'aborting': {
      // The other one never ends, so that the transaction waits for it.
      const stuck: JobDriver = { type: 'create', run: () => new Promise(() => undefined) }
      new Job(home, stuck, { id: 'other', transaction }).start()
      job.start()
      driver.failure = ioError('EIO')
      driver.end(job)
      break
    }
    default:
      job.start()
  }
  await settle()
  return { job, home }
}

for (const status of jobStatuses.filter((one) => one !== 'undefined')) {
  for (const verb of jobVerbs) {
    test(`a job that is ${status} and the verb ${verb}`, async () => {
      const { job } = await jobIn(status)
      expect(job.status).toBe(status)
      const run = async (): Promise<void> => {
        switch (verb) {
          case 'cancel':
            job.cancel()
            break
          case 'pause':
            job.pause()
            break
          case 'resume':
            job.resume()
            break
          case 'set-speed':
            job.setSpeed(5)
            break
          case 'complete':
            await job.complete()
            break
          case 'finalize':
            await job.finalize()
            break
          case 'dismiss':
            void job.dismiss()
        }
      }
      const paused = job.isUserPaused
      if (verb === 'resume' && !paused) {
        await expect(run()).rejects.toThrow("Can't resume a job that was not paused")
      } else if (!accepts(status, verb)) {
        await expect(run()).rejects.toMatchObject({
          code: 'EPERM',
          message: `Job 'j' in state '${status}' cannot accept command verb '${verb}'`,
        })
        expect(job.status).toBe(status)
      } else if (verb === 'pause' && paused) {
        await expect(run()).rejects.toThrow('Job is already paused')
      } else {
        await run()
      }
    })
  }
}

test('the states of a job that succeeds, and its events', async () => {
  const { home, events } = world()
  const driver = new Scripted(true)
  const job = new BlockJob(home, driver, { id: 'j' })
  job.progress.setRemaining(10)
  job.start()
  await settle()
  job.progress.update(10)
  expect(home.queryBlockJobs()).toEqual([
    {
      ...{ type: 'mirror', device: 'j', len: 10, offset: 10, busy: false, paused: false, speed: 0 },
      ...{ 'io-status': 'ok', ready: true, status: 'ready', 'auto-finalize': true, 'auto-dismiss': true },
    },
  ])
  expect(home.query()).toEqual([
    { id: 'j', type: 'mirror', status: 'ready', 'current-progress': 10, 'total-progress': 10 },
  ])
  await job.complete()
  await job.wait()
  expect(events).toEqual([
    ...['j:created', 'j:running', 'j:ready', 'BLOCK_JOB_READY', 'j:waiting', 'j:pending'],
    ...['BLOCK_JOB_COMPLETED', 'j:concluded', 'j:null'],
  ])
  expect(driver.calls).toEqual(['prepare', 'commit', 'clean'])
  expect(home.jobs).toEqual([])
})

test('a job that fails tells why, and stays until it is dismissed', async () => {
  const { home, layer, events } = world()
  const data: unknown[] = []
  layer.events.on((event) => data.push(event))
  const driver = new Scripted()
  const job = new BlockJob(home, driver, { id: 'j', autoDismiss: false, speed: 7 })
  job.start()
  driver.failure = blockError('ENOSPC', 'No space left on device')
  driver.end(job)
  await expect(job.wait()).rejects.toMatchObject({ code: 'ENOSPC' })
  expect(events).toEqual(['j:created', 'j:running', 'j:aborting', 'BLOCK_JOB_COMPLETED', 'j:concluded'])
  expect(data).toContainEqual({
    event: 'BLOCK_JOB_COMPLETED',
    data: { type: 'mirror', device: 'j', len: 0, offset: 0, speed: 7, error: 'No space left on device' },
  })
  expect(driver.calls).toEqual(['abort', 'clean'])
  expect(home.query()[0]).toMatchObject({ status: 'concluded', error: 'No space left on device' })
  void job.dismiss()
  expect(() => home.get('j')).toThrow('Job not found')
  expect(() => home.getBlockJob('j')).toThrow("Block job 'j' not found")
})

test('what goes wrong in the work that is no error of the block layer fails the job, too', async () => {
  const { home } = world()
  const driver = new Scripted()
  const job = new BlockJob(home, driver, { id: 'j' })
  job.start()
  driver.failure = new TypeError('a mistake')
  driver.end(job)
  await expect(job.wait()).rejects.toMatchObject({ code: 'EIO', cause: driver.failure })
})

test('a soft cancel of a ready job lets it end well, one by force does not', async () => {
  for (const force of [false, true]) {
    const { home, events } = world()
    const job = new BlockJob(home, new Scripted(true, true), { id: 'j' })
    job.start()
    await settle()
    job.cancelAsBlockJob(force)
    await job.wait().catch(() => undefined)
    expect(job.error?.code).toBe(force ? 'ECANCELED' : undefined)
    expect(events).toContain(force ? 'BLOCK_JOB_CANCELLED' : 'BLOCK_JOB_COMPLETED')
  }
})

test('a paused job is not cancelled without force', async () => {
  const { home, events } = world()
  const job = new BlockJob(home, new Scripted(), { id: 'j' })
  job.start()
  job.pause()
  await settle()
  expect(() => job.cancelAsBlockJob()).toThrow("The block job for device 'j' is currently paused")
  job.cancelAsBlockJob(true)
  await job.wait().catch(() => undefined)
  expect(events).toEqual([
    ...['j:created', 'j:running', 'j:paused', 'j:running', 'j:aborting'],
    ...['BLOCK_JOB_CANCELLED', 'j:concluded', 'j:null'],
  ])
})

test('a job that never began goes without a word', async () => {
  const { home, events } = world()
  const job = new BlockJob(home, new Scripted(), { id: 'j', autoDismiss: false })
  job.cancel()
  await expect(job.wait()).rejects.toMatchObject({ code: 'ECANCELED' })
  expect(events).toEqual(['j:created', 'j:aborting', 'j:concluded', 'j:null'])
})

test('ids', () => {
  const { home } = world()
  new BlockJob(home, new Scripted(), { id: 'j' })
  expect(() => new BlockJob(home, new Scripted(), { id: 'j' })).toThrow("Job ID 'j' already in use")
  expect(() => new BlockJob(home, new Scripted(), { id: '1j' })).toThrow("Invalid job ID '1j'")
})

test("an internal job is nobody else's business", async () => {
  const { home, events } = world()
  const driver = new Scripted()
  const job = new BlockJob(home, driver)
  job.start()
  expect(home.query()).toEqual([])
  driver.end(job)
  await job.wait()
  expect(events).toEqual([])
})

test('jobs of a transaction wait for each other, and conclude together', async () => {
  const { home, events } = world()
  const transaction = new JobTransaction()
  const drivers = [new Scripted(), new Scripted()]
  const jobs = drivers.map(
    (driver, at) =>
      new BlockJob(home, driver, { id: `j${at}`, transaction, autoFinalize: false, autoDismiss: false }),
  )
  for (const job of jobs) {
    job.start()
  }
  drivers[0]?.end(jobs[0] as BlockJob)
  await settle()
  expect(jobs.map(({ status }) => status)).toEqual(['waiting', 'running'])
  drivers[1]?.end(jobs[1] as BlockJob)
  await settle()
  expect(jobs.map(({ status }) => status)).toEqual(['pending', 'pending'])
  expect(events.filter((event) => event === 'BLOCK_JOB_PENDING')).toHaveLength(2)
  await jobs[0]?.finalize()
  expect(jobs.map(({ status }) => status)).toEqual(['concluded', 'concluded'])
  expect(drivers.map(({ calls }) => calls.join())).toEqual(['prepare,commit,clean', 'prepare,commit,clean'])
})

test('one failure fails the transaction', async () => {
  for (const where of ['run', 'prepare'] as const) {
    const { home } = world()
    const transaction = new JobTransaction()
    const drivers = [new Scripted(), new Scripted(), new Scripted()]
    const jobs = drivers.map(
      (driver, at) => new BlockJob(home, driver, { id: `j${at}`, transaction, autoDismiss: false }),
    )
    for (const job of jobs) {
      job.start()
    }
    const [first, second] = drivers as [Scripted, Scripted]
    if (where === 'run') {
      second.failure = ioError('EIO')
    } else {
      second.prepareFailure = ioError('EIO')
    }
    first.end(jobs[0] as BlockJob)
    second.end(jobs[1] as BlockJob)
    if (where === 'prepare') {
      drivers[2]?.end(jobs[2] as BlockJob)
    }
    await Promise.allSettled(jobs.map((job) => job.wait()))
    expect(jobs.map(({ error }) => error?.code)).toEqual(['ECANCELED', 'EIO', 'ECANCELED'])
    expect(drivers.every(({ calls }) => calls.includes('abort') && !calls.includes('commit'))).toBe(true)
  }
})

test('a cancelled pending job takes the others along', async () => {
  const { home } = world()
  const transaction = new JobTransaction()
  const drivers = [new Scripted(), new Scripted()]
  const jobs = drivers.map(
    (driver, at) => new BlockJob(home, driver, { id: `j${at}`, transaction, autoFinalize: false }),
  )
  jobs.forEach((job, at) => {
    job.start()
    drivers[at]?.end(job)
  })
  await settle()
  jobs[1]?.cancel()
  await Promise.allSettled(jobs.map((job) => job.wait()))
  expect(jobs.map(({ error }) => error?.code)).toEqual(['ECANCELED', 'ECANCELED'])
  expect(home.jobs).toEqual([])
})

/** Moves `total` bytes in chunks of 1000. */
function mover(total: number): BlockJobDriver {
  return {
    type: 'stream',
    run: async (job) => {
      job.progress.setRemaining(total)
      while (job.progress.offset < total && !job.isCancelled) {
        await job.breathe()
        job.progress.update(1000)
        job.moved(1000)
      }
    },
  }
}

test('a job keeps its speed, and one that is changed', async () => {
  const { home, clock } = world()
  const job = new BlockJob(home, mover(100_000), { id: 'j', speed: 10_000 })
  job.start()
  await clock.advance(2)
  expect(job.progress.offset).toBeGreaterThan(18_000)
  expect(job.progress.offset).toBeLessThan(23_000)
  job.setSpeed(40_000)
  const before = job.progress.offset
  await clock.advance(1)
  expect(job.progress.offset - before).toBeGreaterThan(36_000)
  expect(job.progress.offset - before).toBeLessThan(46_000)
  job.pause()
  const there = job.progress.offset
  await clock.advance(10)
  expect(job.progress.offset - there).toBeLessThan(2000)
  job.resume()
  job.setSpeed(0)
  await job.wait()
  expect(() => job.setSpeed(-1)).toThrow("cannot accept command verb 'set-speed'")
})

test('a chunk larger than a slice makes the next one wait as long as it takes', async () => {
  const { home, clock } = world()
  const job = new BlockJob(home, mover(20_000), { id: 'j', speed: 1000 })
  job.start()
  await clock.advance(9.5)
  expect(job.progress.offset).toBeGreaterThanOrEqual(9000)
  expect(job.progress.offset).toBeLessThanOrEqual(11_000)
  expect(() => job.setSpeed(-1)).toThrow("Parameter 'speed' expects a non-negative value")
  job.cancel()
  await expect(job.wait()).rejects.toMatchObject({ code: 'ECANCELED' })
})

test('progress can be watched', async () => {
  const { home } = world()
  const job = new BlockJob(home, mover(3000), { id: 'j' })
  const seen: number[] = []
  const watch = (async () => {
    for await (const { offset } of job.progress) {
      seen.push(offset)
    }
  })()
  job.start()
  await job.wait()
  await watch
  expect(seen[0]).toBe(0)
  expect(seen.at(-1)).toBe(3000)
  expect(seen).toEqual([...seen].sort((a, b) => a - b))
})

test('errors go by the policy', async () => {
  const { home, layer } = world()
  const told: unknown[] = []
  layer.events.on(({ event, data }) => event === 'BLOCK_JOB_ERROR' && told.push(data))
  const job = new BlockJob(home, new Scripted(), { id: 'j' })
  job.start()
  expect(job.errorAction('report', true, 'ENOSPC')).toBe('report')
  expect(job.errorAction('ignore', false, 'EIO')).toBe('ignore')
  expect(job.errorAction('enospc', false, 'EIO')).toBe('report')
  expect(job.isUserPaused).toBe(false)
  expect(job.errorAction('auto', false, 'ENOSPC')).toBe('stop')
  expect(job.errorAction('stop', true, 'EIO')).toBe('stop')
  expect(job.blockInfo()).toMatchObject({ 'io-status': 'nospace', paused: true })
  job.resume()
  expect(job.ioStatus).toBe('ok')
  expect(told).toContainEqual({ device: 'j', operation: 'write', action: 'stop' })
  expect(told).toHaveLength(5)
  await home.cancelAll()
  expect(home.jobs).toEqual([])
})
