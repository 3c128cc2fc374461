import { JobRegistry } from '../../jobs/index.js'
import type { CommandContext } from '../context.js'
import { defineHandlers } from '../handlers.js'

/** Jobs: what all of them have in common. */
export function jobCommands({ layer }: CommandContext) {
  const jobs = JobRegistry.of(layer)
  return defineHandlers({
    'query-jobs': () => jobs.query(),
    'query-block-jobs': () => jobs.queryBlockJobs(),
    'job-pause': ({ id }) => jobs.get(id).pause(),
    'job-resume': ({ id }) => jobs.get(id).resume(),
    'job-cancel': ({ id }) => jobs.get(id).cancel(true),
    'job-complete': async ({ id }) => await jobs.get(id).complete(),
    'job-finalize': async ({ id }) => await jobs.get(id).finalize(),
    'job-dismiss': async ({ id }) => await jobs.get(id).dismiss(),
    'block-job-set-speed': ({ device, speed }) => jobs.getBlockJob(device).setSpeed(speed),
    'block-job-cancel': ({ device, force }) => jobs.getBlockJob(device).cancelAsBlockJob(force ?? false),
    'block-job-pause': ({ device }) => jobs.getBlockJob(device).pause(),
    'block-job-resume': ({ device }) => jobs.getBlockJob(device).resume(),
    'block-job-complete': async ({ device }) => await jobs.getBlockJob(device).complete(),
    'block-job-finalize': async ({ id }) => await jobs.getBlockJob(id).finalize(),
    'block-job-dismiss': async ({ id }) => await jobs.getBlockJob(id).dismiss(),
  })
}
