import { blockError, prefixed } from '../../errors/index.js'
import { decodeBase64 } from '../../options/index.js'
import { chardevBackends, RingBufferChar } from '../chardev/index.js'
import type { CommandContext } from '../context.js'
import { defineHandlers } from '../handlers.js'

/** Character devices. */
export function chardevCommands({ chardevs }: CommandContext) {
  const ring = (label: string): RingBufferChar => {
    const device = chardevs.find(label)
    if (device === undefined) {
      throw blockError('ENODEV', `Device '${label}' not found`)
    }
    if (!(device instanceof RingBufferChar)) {
      throw blockError('EINVAL', `${label} is not a ringbuf device`)
    }
    return device
  }
  return defineHandlers({
    'query-chardev': () =>
      chardevs.list().map((device) => ({
        label: device.label,
        filename: device.filename,
        'frontend-open': device.frontend !== undefined,
      })),
    'query-chardev-backends': () => chardevBackends.map((name) => ({ name })),
    'chardev-add': async ({ id, backend }) => {
      if (chardevs.find(id) !== undefined) {
        throw blockError('EEXIST', `Chardev with id '${id}' already exists`)
      }
      try {
        await chardevs.add(id, backend)
      } catch (error) {
        throw prefixed(error, `Failed to add chardev '${id}': `)
      }
      return {}
    },
    'chardev-remove': async ({ id }) => await chardevs.remove(id),
    'chardev-change': async ({ id, backend }) => {
      const device = chardevs.find(id)
      if (device === undefined) {
        throw blockError('ENOENT', `Chardev '${id}' does not exist`)
      }
      if (device.frontend !== undefined) {
        throw blockError('ENOTSUP', 'Chardev user does not support chardev hotswap')
      }
      try {
        await chardevs.replace(id, backend)
      } catch (error) {
        throw prefixed(error, `Failed to add chardev '${id}': `)
      }
      return {}
    },
    'chardev-send-break': ({ id }) => {
      if (chardevs.find(id) === undefined) {
        throw blockError('ENOENT', `Chardev '${id}' not found`)
      }
    },
    'ringbuf-write': ({ device, data, format }) => {
      void ring(device).write(format === 'base64' ? decodeBase64(data) : new TextEncoder().encode(data))
    },
    'ringbuf-read': ({ device, size, format }) => {
      const buffer = ring(device)
      if (size <= 0) {
        throw blockError('EINVAL', 'size must be greater than zero')
      }
      const bytes = buffer.take(size)
      return format === 'base64'
        ? btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''))
        : new TextDecoder().decode(bytes)
    },
  })
}
