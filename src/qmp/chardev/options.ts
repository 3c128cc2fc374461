import { blockError } from '../../errors/index.js'
import { identifierError, isIdentifier, listOptions, parseSize } from '../../options/index.js'
import type { TypeOf } from '../schema/types.js'
import type { ChardevBackend } from './registry.js'

/** What `--chardev` asks for. */
export type ChardevRequest =
  | { readonly kind: 'help' }
  | {
      readonly kind: 'device'
      readonly id: string
      readonly backend: ChardevBackend
      /** Text without `warning: `, and the line below it. */
      readonly warnings: readonly { readonly text: string; readonly hint: string }[]
    }

const words = [
  ...[
    'backend',
    'path',
    'input-path',
    'host',
    'port',
    'fd',
    'localaddr',
    'localport',
    'name',
    'signal',
    'mux',
  ],
  ...[
    'size',
    'chardev',
    'append',
    'logfile',
    'tls-creds',
    'tls-authz',
    'reconnect',
    'width',
    'height',
    'cols',
  ],
  ...[
    'rows',
    'mouse',
    'clipboard',
    'server',
    'wait',
    'delay',
    'nodelay',
    'telnet',
    'tn3270',
    'websocket',
    'to',
  ],
  ...['ipv4', 'ipv6', 'logappend', 'abstract', 'tight'],
]

function invalid(text: string, hint?: string) {
  return blockError('EINVAL', text, hint === undefined ? {} : { hint })
}

class Values {
  readonly #values: ReadonlyMap<string, string>

  constructor(values: ReadonlyMap<string, string>) {
    this.#values = values
  }

  text(name: string): string | undefined {
    return this.#values.get(name)
  }

  flag(name: string): boolean | undefined {
    const value = this.#values.get(name)
    if (value === undefined) {
      return undefined
    }
    if (['on', 'yes', 'true', 'y'].includes(value)) {
      return true
    }
    if (['off', 'no', 'false', 'n'].includes(value)) {
      return false
    }
    throw invalid(`Parameter '${name}' expects 'on' or 'off'`)
  }

  size(name: string): number | undefined {
    const value = this.#values.get(name)
    if (value === undefined) {
      return undefined
    }
    const size = parseSize(value)
    if (typeof size === 'number') {
      return size
    }
    throw invalid(
      `Parameter '${name}' expects a non-negative number below 2^64`,
      'Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.',
    )
  }

  number(name: string): number | undefined {
    const value = this.#values.get(name)
    if (value !== undefined && !/^\d+$/.test(value)) {
      throw invalid(`Parameter '${name}' expects a number`)
    }
    return value === undefined ? undefined : Number(value)
  }
}

/** Reads the argument of `--chardev`. @throws BlockError with QEMU's text */
export function parseChardev(text: string): ChardevRequest {
  const values = new Map<string, string>()
  const warnings: { text: string; hint: string }[] = []
  let id: string | undefined
  for (const { name, value, flag } of listOptions(text, 'backend')) {
    if (flag === 'help' || flag === '?' || (name === 'backend' && (value === 'help' || value === '?'))) {
      return { kind: 'help' }
    }
    if (flag !== undefined) {
      const hint = name === 'delay' ? `nodelay=${value === 'on' ? 'off' : 'on'}` : `${name}=${value}`
      warnings.push({
        text: `short-form boolean option '${flag}' deprecated`,
        hint: `Please use ${hint} instead`,
      })
    }
    if (name === 'id') {
      id ??= value
    } else {
      values.set(name, value)
    }
  }
  if (id !== undefined && !isIdentifier(id)) {
    throw identifierError()
  }
  for (const name of values.keys()) {
    if (!words.includes(name)) {
      throw invalid(`Invalid parameter '${name}'`)
    }
  }
  const backend = values.get('backend')
  if (id === undefined) {
    throw invalid('chardev: no id specified')
  }
  if (backend === undefined) {
    throw invalid(`chardev: "${id}" missing backend`)
  }
  return { kind: 'device', id, backend: backendOf(backend, new Values(values)), warnings }
}

function backendOf(type: string, values: Values): ChardevBackend {
  switch (type) {
    case 'null':
      return { type, data: {} }
    case 'stdio':
      return { type, data: { signal: values.flag('signal') } }
    case 'ringbuf':
    case 'memory':
      return { type, data: { size: values.size('size') } }
    case 'file': {
      const out = values.text('path')
      if (out === undefined) {
        throw invalid('chardev: file: no filename given')
      }
      return { type, data: { out, in: values.text('input-path'), append: values.flag('append') } }
    }
    case 'socket':
      return { type, data: socketData(values) }
    default:
      throw invalid(`'${type}' is not a valid char driver name`)
  }
}

function socketData(values: Values): TypeOf<'ChardevSocket'> {
  const [path, host, fd, port] = ['path', 'host', 'fd', 'port'].map((name) => values.text(name))
  const given = [path, host, fd].filter((value) => value !== undefined).length
  if (given > 1) {
    throw invalid("None or one of 'path', 'fd' or 'host' option required.")
  }
  if (host !== undefined && port === undefined) {
    throw invalid('chardev: socket: no port given')
  }
  const server = values.flag('server') ?? false
  const wait = values.flag('wait')
  return {
    addr:
      path !== undefined
        ? { type: 'unix', data: { path } }
        : host !== undefined
          ? { type: 'inet', data: { host, port: port ?? '' } }
          : { type: 'fd', data: { str: fd ?? '' } },
    server,
    // A server waits for its client unless told not to.
    wait: wait ?? (server ? true : undefined),
    telnet: values.flag('telnet'),
    tn3270: values.flag('tn3270'),
    websocket: values.flag('websocket'),
    reconnect: values.number('reconnect'),
    'tls-creds': values.text('tls-creds'),
    'tls-authz': values.text('tls-authz'),
  }
}
