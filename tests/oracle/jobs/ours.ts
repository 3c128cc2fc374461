import { allDrivers } from '../../../src/all-drivers.js'
import { blockError, isBlockError } from '../../../src/errors/index.js'
import {
  addBlockdev,
  addDirtyBitmap,
  type BlockLayer,
  type BlockNode,
  chainContains,
  createBlockLayer,
} from '../../../src/graph/index.js'
import {
  type BitmapMode,
  createActiveCommit,
  createAmendJob,
  createCommit,
  createCreateJob,
  createMirror,
  createStream,
  type Job,
  type JobOnError,
  JobRegistry,
  type MirrorCopyMode,
  type SyncMode,
  startBackups,
} from '../../../src/jobs/index.js'
import type { OptionTree } from '../../../src/options/index.js'
import { createNodeHost } from '../../../src/platform/node/index.js'
import type { JobSide, Reply, SeenEvent } from './daemon.js'

/** What commands take; those that a command must have are there. */
interface Arguments {
  readonly id: string
  readonly device: string
  readonly name: string
  readonly node: string
  readonly target: string
  readonly sync: SyncMode
  readonly speed: number
  readonly 'job-id': string
  readonly 'node-name': string
  readonly options: OptionTree
  readonly force?: boolean
  readonly compress?: boolean
  readonly bitmap?: string
  readonly 'bitmap-mode'?: BitmapMode
  readonly 'copy-mode'?: MirrorCopyMode
  readonly granularity?: number
  readonly 'buf-size'?: number
  readonly replaces?: string
  readonly bottom?: string
  readonly 'base-node'?: string
  readonly 'top-node'?: string
  readonly 'backing-file'?: string
  readonly 'on-error'?: JobOnError
  readonly 'auto-finalize'?: boolean
  readonly 'auto-dismiss'?: boolean
  readonly 'filter-node-name'?: string
}

/** The jobs of this library, told what to do as a monitor tells it. */
export class Ours implements JobSide {
  readonly events: SeenEvent[] = []
  readonly layer: BlockLayer

  private constructor(layer: BlockLayer) {
    this.layer = layer
    layer.events.on(({ event, data }) => {
      this.events.push({ event, data })
    })
  }

  static async start(blockdevs: readonly object[]): Promise<Ours> {
    const ours = new Ours(createBlockLayer({ host: createNodeHost(), drivers: allDrivers }))
    for (const options of blockdevs) {
      await addBlockdev(ours.layer, options as never)
    }
    return ours
  }

  async execute(command: string, args: object): Promise<Reply> {
    try {
      const result = await this.#run(command, args as Arguments)
      return { return: result ?? {} }
    } catch (error) {
      if (!isBlockError(error)) {
        throw error
      }
      return { error: { class: error.errorClass, desc: error.message } }
    }
  }

  async #run(command: string, args: Arguments): Promise<unknown> {
    const registry = JobRegistry.of(this.layer)
    const job = await this.#start(command, args)
    if (job !== undefined) {
      job.start()
      return undefined
    }
    switch (command) {
      case 'blockdev-backup':
        await startBackups([
          {
            ...{ ...commonOptions(args), node: this.#node(args.device), target: this.#node(args.target) },
            ...{ sync: args.sync, compress: args.compress },
            ...{ bitmap: args.bitmap, bitmapMode: args['bitmap-mode'] },
          },
        ])
        return undefined
      case 'block-dirty-bitmap-add':
        await addDirtyBitmap(this.layer.lookup(undefined, args.node), { name: args.name })
        return undefined
      case 'query-jobs':
        return registry.query()
      case 'query-block-jobs':
        return registry.queryBlockJobs()
      case 'job-pause':
        return registry.get(args.id).pause()
      case 'job-resume':
        return registry.get(args.id).resume()
      case 'job-cancel':
        return registry.get(args.id).cancel(true)
      case 'job-complete':
        return await registry.get(args.id).complete()
      case 'job-finalize':
        return await registry.get(args.id).finalize()
      case 'job-dismiss':
        return registry.get(args.id).dismiss()
      case 'block-job-cancel':
        return registry.getBlockJob(args.device).cancelAsBlockJob(args.force)
      case 'block-job-pause':
        return registry.getBlockJob(args.device).pause()
      case 'block-job-set-speed':
        return registry.getBlockJob(args.device).setSpeed(args.speed)
      default:
        throw new Error(`no command ${command}`)
    }
  }

  #node(name: string): BlockNode {
    return this.layer.lookup(name, name)
  }

  async #start(command: string, args: Arguments): Promise<Job | undefined> {
    const node = (name: string | undefined) => (name === undefined ? undefined : this.#node(name))
    const common = commonOptions(args)
    const device = command.includes('-job-') ? undefined : node(args.device)
    const target = command.startsWith('blockdev-') ? node(args.target) : undefined
    if (command === 'blockdev-create') {
      return createCreateJob(this.layer, { jobId: args['job-id'], options: args.options })
    }
    if (command === 'x-blockdev-amend') {
      const amended = this.layer.lookup(undefined, args['node-name'])
      return createAmendJob({
        jobId: args['job-id'],
        node: amended,
        options: args.options,
        force: args.force,
      })
    }
    if (device === undefined) {
      return undefined
    }
    switch (command) {
      case 'block-stream':
        return await createStream({
          ...{ ...common, node: device, base: node(args['base-node']), bottom: node(args.bottom) },
          ...{ backingFile: args['backing-file'], onError: args['on-error'] },
        })
      case 'block-commit': {
        const top = node(args['top-node']) ?? device
        const base = node(args['base-node'])
        if (base === undefined || !chainContains(top, base)) {
          throw blockError('EINVAL', 'no base')
        }
        return top === device
          ? await createActiveCommit({ ...common, node: device, base, onError: args['on-error'] })
          : await createCommit({
              ...{ ...common, node: device, top, base, onError: args['on-error'] },
              backingFile: args['backing-file'],
            })
      }
      case 'blockdev-mirror':
        return target === undefined
          ? undefined
          : await createMirror({
              ...{ ...common, node: device, target, sync: args.sync, copyMode: args['copy-mode'] },
              ...{ granularity: args.granularity, bufferBytes: args['buf-size'], replaces: args.replaces },
            })
      default:
        return undefined
    }
  }

  async close(): Promise<void> {
    await JobRegistry.of(this.layer).cancelAll()
    await this.layer.closeAll()
  }
}

function commonOptions(args: Arguments) {
  return {
    jobId: args['job-id'],
    speed: args.speed,
    autoFinalize: args['auto-finalize'],
    autoDismiss: args['auto-dismiss'],
    filterNodeName: args['filter-node-name'],
  }
}
