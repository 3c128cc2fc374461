import { createRequire } from 'node:module'

/** The system calls that Node does not offer. Results are the call's; -1 leaves the reason in {@link Libc.errno}. */
export interface Libc {
  /** errno of the last failed call, positive. */
  errno(): number
  preadv2(fd: number, iov: Uint8Array, count: number, offset: number, flags: number): number
  lseek(fd: number, offset: number, whence: number): number
  fallocate(fd: number, mode: number, offset: number, length: number): number
  /** As fallocate, on another thread; resolves to 0 or a positive errno. */
  fallocateAsync(fd: number, mode: number, offset: number, length: number): Promise<number>
  fcntl(fd: number, command: number, argument: Uint8Array): number
  ioctl(fd: number, request: number, argument: Uint8Array): number
  /** As ioctl, on another thread; resolves to 0 or a positive errno. */
  ioctlAsync(fd: number, request: number, argument: Uint8Array): Promise<number>
  copyFileRange(from: number, fromOffset: number, to: number, toOffset: number, length: number): number
  /** Resolves to the bytes copied or a negative errno. */
  copyFileRangeAsync(
    from: number,
    fromOffset: number,
    to: number,
    toOffset: number,
    length: number,
  ): Promise<number>
  fadvise(fd: number, offset: number, length: number, advice: number): number
  /** Address of a buffer's first byte. */
  address(buffer: Uint8Array): bigint
}

interface Koffi {
  load(name: string): { func(declaration: string): KoffiFunction }
  errno(): number
  address(value: unknown): bigint
}

interface KoffiFunction {
  (...args: unknown[]): number
  async(...args: unknown[]): void
}

let cached: Libc | undefined | null = null

/** The binding, loaded on first use; undefined where koffi or glibc is missing. */
export function libc(): Libc | undefined {
  if (cached === null) {
    cached = load()
  }
  return cached
}

function load(): Libc | undefined {
  if (process.platform !== 'linux' || (process.arch !== 'x64' && process.arch !== 'arm64')) {
    return undefined
  }
  let koffi: Koffi
  let library: { func(declaration: string): KoffiFunction }
  try {
    koffi = createRequire(import.meta.url)('koffi') as Koffi
    library = koffi.load('libc.so.6')
  } catch {
    return undefined
  }
  // Declaring a function costs; most commands need two or three of these.
  const lazy = (declaration: string): (() => KoffiFunction) => {
    let f: KoffiFunction | undefined
    return () => {
      f ??= library.func(declaration)
      return f
    }
  }
  const preadv2 = lazy('int64 preadv2(int fd, void *iov, int count, int64 offset, int flags)')
  const lseek = lazy('int64 lseek(int fd, int64 offset, int whence)')
  const fallocate = lazy('int fallocate(int fd, int mode, int64 offset, int64 length)')
  const fcntl = lazy('int fcntl(int fd, int command, void *argument)')
  const ioctl = lazy('int ioctl(int fd, uint64 request, void *argument)')
  const copy = lazy(
    'int64 copy_file_range(int from, void *fromOffset, int to, void *toOffset, size_t length, uint32 flags)',
  )
  const fadvise = lazy('int posix_fadvise(int fd, int64 offset, int64 length, int advice)')
  // errno belongs to the thread that made the call, so asynchronous calls go through syscall-like
  // wrappers only where the result alone tells enough; otherwise they are repeated synchronously.
  const later = (f: KoffiFunction, ...args: unknown[]): Promise<number> =>
    new Promise((resolve, reject) => {
      f.async(...args, (error: Error | null, result: number) => {
        if (error === null) {
          resolve(Number(result))
        } else {
          reject(error)
        }
      })
    })
  const offsetBuffer = (offset: number): Uint8Array => {
    const bytes = new Uint8Array(8)
    new DataView(bytes.buffer).setBigInt64(0, BigInt(offset), true)
    return bytes
  }
  return {
    errno: () => koffi.errno(),
    address: (buffer) => BigInt(koffi.address(buffer)),
    preadv2: (fd, iov, count, offset, flags) => Number(preadv2()(fd, iov, count, offset, flags)),
    lseek: (fd, offset, whence) => Number(lseek()(fd, offset, whence)),
    fallocate: (fd, mode, offset, length) => fallocate()(fd, mode, offset, length),
    fallocateAsync: async (fd, mode, offset, length) => {
      if ((await later(fallocate(), fd, mode, offset, length)) === 0) {
        return 0
      }
      return fallocate()(fd, mode, offset, length) === 0 ? 0 : koffi.errno()
    },
    fcntl: (fd, command, argument) => fcntl()(fd, command, argument),
    ioctl: (fd, request, argument) => ioctl()(fd, request, argument),
    ioctlAsync: async (fd, request, argument) => {
      if ((await later(ioctl(), fd, request, argument)) === 0) {
        return 0
      }
      return ioctl()(fd, request, argument) === 0 ? 0 : koffi.errno()
    },
    copyFileRange: (from, fromOffset, to, toOffset, length) =>
      Number(copy()(from, offsetBuffer(fromOffset), to, offsetBuffer(toOffset), length, 0)),
    copyFileRangeAsync: async (from, fromOffset, to, toOffset, length) => {
      const first = await later(copy(), from, offsetBuffer(fromOffset), to, offsetBuffer(toOffset), length, 0)
      if (first >= 0) {
        return first
      }
      const again = Number(copy()(from, offsetBuffer(fromOffset), to, offsetBuffer(toOffset), length, 0))
      return again >= 0 ? again : -koffi.errno()
    },
    fadvise: (fd, offset, length, advice) => fadvise()(fd, offset, length, advice),
  }
}
