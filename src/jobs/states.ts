import { blockError } from '../errors/index.js'

/** QAPI `JobType`. */
export type JobType = 'commit' | 'stream' | 'mirror' | 'backup' | 'create' | 'amend'

/** QAPI `JobStatus`. */
export const jobStatuses = [
  'undefined',
  'created',
  'running',
  'paused',
  'ready',
  'standby',
  'waiting',
  'pending',
  'aborting',
  'concluded',
  'null',
] as const

export type JobStatus = (typeof jobStatuses)[number]

/** QAPI `JobVerb`, as far as jobs of this library take them. */
export const jobVerbs = ['cancel', 'pause', 'resume', 'set-speed', 'complete', 'finalize', 'dismiss'] as const

export type JobVerb = (typeof jobVerbs)[number]

const transitions: Readonly<Record<JobStatus, readonly JobStatus[]>> = {
  undefined: ['created'],
  created: ['running', 'aborting', 'null'],
  running: ['paused', 'ready', 'waiting', 'aborting'],
  paused: ['running'],
  ready: ['standby', 'waiting', 'aborting'],
  standby: ['ready'],
  waiting: ['pending', 'aborting'],
  pending: ['aborting', 'concluded'],
  aborting: ['aborting', 'concluded'],
  concluded: ['null'],
  null: [],
}

const active: readonly JobStatus[] = ['created', 'running', 'paused', 'ready', 'standby']

const accepting: Readonly<Record<JobVerb, readonly JobStatus[]>> = {
  cancel: [...active, 'waiting', 'pending'],
  pause: active,
  resume: active,
  'set-speed': active,
  complete: ['ready', 'standby'],
  finalize: ['pending'],
  dismiss: ['concluded'],
}

/** Whether a job may go from one status to the other. */
export function mayFollow(from: JobStatus, to: JobStatus): boolean {
  return transitions[from].includes(to)
}

/** Whether a job in `status` takes `verb`. */
export function accepts(status: JobStatus, verb: JobVerb): boolean {
  return accepting[verb].includes(status)
}

/** @throws BlockError EPERM if a job in `status` does not take `verb` */
export function checkVerb(id: string, status: JobStatus, verb: JobVerb): void {
  if (!accepts(status, verb)) {
    throw blockError('EPERM', `Job '${id}' in state '${status}' cannot accept command verb '${verb}'`)
  }
}

/** Whether a job in `status` has done its work, well or badly. */
export function isCompleted(status: JobStatus): boolean {
  return !active.includes(status) && status !== 'undefined'
}
