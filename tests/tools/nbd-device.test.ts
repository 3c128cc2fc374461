import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeEach, describe, expect, test } from 'vitest'
import { allDrivers } from '../../src/all-drivers.js'
import { createBlockLayer } from '../../src/graph/index.js'
import { createNodeHost } from '../../src/platform/node/index.js'
import { type Libc, libc } from '../../src/platform/node/libc.js'
import { NodeNbdDevices } from '../../src/platform/node/nbd-devices.js'
import type { ToolContext } from '../../src/tools/context.js'
import { run } from '../../src/tools/nbd/run.js'

// Images as /dev/nbdN. The kernel's side of the ioctls is played here, on the very socket that it would get.

const folder = mkdtempSync(join(tmpdir(), 'nbd-device-'))
const image = join(folder, 'disk.raw')
const socket = join(folder, 's')
const MiB = 1 << 20
const Ioctl = { setSocket: 0xab00, blockSize: 0xab01, doIt: 0xab03, blocks: 0xab07, flags: 0xab0a } as const
const Command = { read: 0, write: 1, disconnect: 2 } as const
const EAGAIN = -11
const EBUSY = -16
const ENOTTY = -25
const EPIPE = -32

beforeEach(() => {
  writeFileSync(
    image,
    Uint8Array.from({ length: MiB }, (_, i) => (i >> 9) & 255),
  )
})

afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

function pause(): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, 1)
  })
}

/** The kernel behind one device. */
class Kernel {
  readonly calls: [number, number][] = []
  /** Answers of ioctls that do not succeed, by request. */
  readonly refusals = new Map<number, number>()
  readonly #real = libc() as Libc
  #socket = -1
  #disconnect = false

  get libc(): Libc {
    return {
      ...this.#real,
      ioctl: (_, what, argument) => {
        this.calls.push([what, argument[0] as number])
        return this.refusals.get(what) ?? 0
      },
      ioctlValue: (_, what, value) => {
        this.calls.push([what, value])
        if (what === Ioctl.setSocket) {
          this.#socket = value
        }
        return this.refusals.get(what) ?? 0
      },
      ioctlValueAsync: (_, what) => {
        this.calls.push([what, 0])
        return this.#serve()
      },
    }
  }

  value(what: number): number | undefined {
    return this.calls.find(([request]) => request === what)?.[1]
  }

  /** `-d` of somebody. */
  disconnect(): void {
    this.#disconnect = true
  }

  /** NBD_DO_IT: returns when the connection has come to an end. */
  async #serve(): Promise<number> {
    for (;;) {
      if (this.#disconnect) {
        this.#send(this.#header(Command.disconnect, 0, 0))
        return EPIPE
      }
      const byte = new Uint8Array(1)
      // Without taking it: it may be part of a reply.
      if (this.#real.recv(this.#socket, this.#real.address(byte), 1, 0x42) === 0) {
        return EPIPE
      }
      await pause()
    }
  }

  #header(command: number, offset: number, bytes: number): Uint8Array {
    const header = new Uint8Array(28)
    const view = new DataView(header.buffer)
    view.setUint32(0, 0x25609513)
    view.setUint16(6, command)
    view.setUint32(12, 0xabcd)
    view.setUint32(20, offset)
    view.setUint32(24, bytes)
    return header
  }

  #send(bytes: Uint8Array): void {
    expect(this.#real.send(this.#socket, this.#real.address(bytes), bytes.length, 0x4000)).toBe(bytes.length)
  }

  async #take(bytes: number): Promise<Uint8Array> {
    const buffer = new Uint8Array(bytes)
    const address = this.#real.address(buffer)
    for (let done = 0; done < bytes; ) {
      const got = this.#real.recv(this.#socket, address + done, bytes - done, 0x40)
      if (got === EAGAIN) {
        await pause()
      } else {
        expect(got).toBeGreaterThan(0)
        done += got
      }
    }
    return buffer
  }

  async #reply(): Promise<void> {
    const reply = new DataView((await this.#take(16)).buffer)
    // Simple replies: the kernel knows no others.
    expect(reply.getUint32(0)).toBe(0x67446698)
    expect(reply.getUint32(4)).toBe(0)
    expect(reply.getUint32(12)).toBe(0xabcd)
  }

  async read(offset: number, bytes: number): Promise<Uint8Array> {
    this.#send(this.#header(Command.read, offset, bytes))
    await this.#reply()
    return await this.#take(bytes)
  }

  async write(offset: number, data: Uint8Array): Promise<void> {
    this.#send(this.#header(Command.write, offset, data.length))
    this.#send(data)
    await this.#reply()
  }
}

interface Started {
  readonly kernel: Kernel
  readonly stop: AbortController
  readonly code: Promise<number>
  output(): string
}

function start(args: readonly string[], prepare: (kernel: Kernel) => void = () => undefined): Started {
  const kernel = new Kernel()
  prepare(kernel)
  const stop = new AbortController()
  let output = ''
  const host = {
    ...createNodeHost({ io: 'foreground' }),
    nbdDevices: {
      open: (path: string) => Promise.resolve().then(() => new NodeNbdDevices(kernel.libc).open(path)),
    },
  }
  const context = {
    program: 'qemu-nbd',
    stdout: (text) => {
      output += text
    },
    stderr: (text) => {
      output += text
    },
    signal: stop.signal,
    createLayer: () => Promise.resolve(createBlockLayer({ host, drivers: allDrivers })),
  } satisfies Partial<ToolContext>
  return { kernel, stop, code: run(args, context as unknown as ToolContext), output: () => output }
}

async function connected(...args: string[]): Promise<Started> {
  const started = start(['-v', '-c', '/dev/null', '-k', socket, '-f', 'raw', ...args, image])
  while (started.output() === '') {
    await pause()
  }
  expect(started.output()).toBe(`NBD device /dev/null is now connected to ${image}\n`)
  return started
}

describe('-c', () => {
  test('the kernel reads and writes the image until its server ends', async () => {
    const { kernel, stop, code } = await connected()
    expect(kernel.value(Ioctl.blockSize)).toBe(512)
    expect(kernel.value(Ioctl.blocks)).toBe(MiB / 512)
    // HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES, CACHE, FAST_ZERO; neither READ_ONLY nor DF, which needs structured replies.
    expect((kernel.value(Ioctl.flags) as number) & 0xff).toBe(0b01101101)
    expect(await kernel.read(512 * 77, 1024)).toEqual(
      Uint8Array.from({ length: 1024 }, (_, i) => (i < 512 ? 77 : 78)),
    )
    await kernel.write(4096, new Uint8Array(300_000).fill(0xee))
    expect(await kernel.read(4096, 300_000)).toEqual(new Uint8Array(300_000).fill(0xee))
    stop.abort()
    expect(await code).toBe(0)
    expect(
      readFileSync(image)
        .subarray(4096, 304_096)
        .every((byte) => byte === 0xee),
    ).toBe(true)
  })

  test('ends with the device, also a server that stays for other clients', async () => {
    const { kernel, code } = await connected('-t', '-e', '3')
    kernel.disconnect()
    expect(await code).toBe(0)
    // CLEAR_QUE, CLEAR_SOCK
    expect(kernel.calls.slice(-2)).toEqual([
      [0xab05, 0],
      [0xab04, 0],
    ])
  })

  test('read-only', async () => {
    const { kernel, stop, code } = await connected('-r')
    expect((kernel.value(Ioctl.flags) as number) & 2).toBe(2)
    stop.abort()
    expect(await code).toBe(0)
  })

  test('a kernel that knows no flags is told whether the device is read-only', async () => {
    const args = ['-v', '-r', '-c', '/dev/null', '-k', socket, '-f', 'raw', image]
    const started = start(args, (kernel) => kernel.refusals.set(Ioctl.flags, ENOTTY))
    while (started.output() === '') {
      await pause()
    }
    expect(started.kernel.value(0x125d)).toBe(1)
    started.stop.abort()
    expect(await started.code).toBe(0)
  })

  test.each<[number, string]>([
    [Ioctl.setSocket, 'Failed to set NBD socket'],
    [Ioctl.blockSize, 'Failed setting NBD block size'],
    [Ioctl.blocks, 'Failed setting size (in blocks)'],
    [Ioctl.flags, 'Failed setting flags'],
  ])('ioctl %i refused', async (what, text) => {
    const args = ['-c', '/dev/null', '-k', socket, '-f', 'raw', image]
    const { code, output, kernel } = start(args, ({ refusals }) => refusals.set(what, EBUSY))
    expect(await code).toBe(1)
    expect(output()).toBe(`qemu-nbd: ${text}\n`)
    expect(kernel.value(Ioctl.doIt)).toBeUndefined()
  })
})

test('-d', async () => {
  const { code, output, kernel } = start(['-d', '/dev/null'])
  expect(await code).toBe(0)
  expect(output()).toBe('/dev/null disconnected\n')
  // CLEAR_QUE, DISCONNECT, CLEAR_SOCK
  expect(kernel.calls.map(([what]) => what)).toEqual([0xab05, 0xab08, 0xab04])
})
