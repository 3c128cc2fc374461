import { blockError } from '../errors/index.js'
import { pathHasProtocol } from '../graph/index.js'
import { defineOptions, type OptionDict, takeOptions } from '../options/index.js'

/** Runtime options of every driver that works on a file or device of the host. */
export const hostFileOptions = defineOptions({
  filename: { type: 'string', help: 'File name of the image' },
  aio: {
    type: 'enum',
    values: ['threads', 'native', 'io_uring'],
    help: 'host AIO implementation (threads, native, io_uring)',
  },
  'aio-max-batch': {
    type: 'number',
    help: 'AIO max batch size (0 = auto handled by AIO backend, default: 0)',
  },
  locking: {
    type: 'enum',
    values: ['auto', 'on', 'off'],
    help: 'file locking mode (on/off/auto, default: auto)',
  },
  'pr-manager': {
    type: 'string',
    help: 'id of persistent reservation manager object (default: none)',
  },
  'drop-cache': {
    type: 'bool',
    help: 'invalidate page cache during live migration (default: on)',
  },
  'x-check-cache-dropped': {
    type: 'bool',
    help: 'check that page cache was dropped on live migration (default: off)',
  },
})

export interface HostFileSettings {
  readonly filename: string | undefined
  /** How requests that wait reach the kernel; undefined: nobody has said. */
  readonly aio: 'threads' | 'native' | 'io_uring' | undefined
  readonly locking: 'auto' | 'on' | 'off'
  readonly dropCache: boolean
  readonly checkCacheDropped: boolean
}

/** `word` if it is one of `words`, the first of them if it is absent. Throws EINVAL with QEMU's text. */
export function parseWord<const W extends string>(word: string | undefined, words: readonly [W, ...W[]]): W {
  if (word === undefined) {
    return words[0]
  }
  const known = words.find((candidate) => candidate === word)
  if (known === undefined) {
    throw blockError('EINVAL', `invalid parameter value: ${word}`)
  }
  return known
}

/**
 * Takes the options of {@link hostFileOptions} out of `options` and checks those that need no file.
 * `defaultAio` counts where `aio` is not given.
 */
export function takeHostFileSettings(
  options: OptionDict,
  defaultAio?: HostFileSettings['aio'],
): HostFileSettings {
  const given = takeOptions(options, hostFileOptions)
  const word = given.aio ?? defaultAio
  const aio = word === undefined ? undefined : parseWord(word, ['threads', 'native', 'io_uring'])
  const locking = parseWord(given.locking, ['auto', 'on', 'off'])
  if (given['pr-manager'] !== undefined) {
    // Objects that manage reservations exist in the system emulator only.
    throw blockError('EINVAL', `No persistent reservation manager with id '${given['pr-manager']}'`)
  }
  return {
    filename: given.filename,
    aio,
    locking,
    dropCache: given['drop-cache'] ?? true,
    checkCacheDropped: given['x-check-cache-dropped'] ?? false,
  }
}

/**
 * `filename` without a leading `prefix` (with its colon). What is left never looks like a protocol
 * again: `file:a:b` becomes `./a:b` (seed row 34).
 */
export function stripProtocolPrefix(filename: string, prefix: string): string {
  if (!filename.startsWith(prefix)) {
    return filename
  }
  const rest = filename.slice(prefix.length)
  return pathHasProtocol(rest) ? `./${rest}` : rest
}
