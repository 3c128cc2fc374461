import { callLater, type Koffi, type KoffiFunction, koffi, type Library } from './koffi.js'

/**
 * The system calls that Node does not offer. A result below zero is a negated errno, as in the
 * kernel's own interface. Offsets and lengths are bytes; buffers belong to the caller.
 */
export interface Libc {
  readonly pageSize: number
  // Addresses instead of buffers, and results of 32 bits, are passed faster; so these move less than 2 GiB at a time.
  /** `iov` is the address of `count` iovecs. */
  preadv2(fd: number, iov: number, count: number, offset: number, flags: number): number
  /** `address` is that of memory of at least `bytes`. */
  recv(fd: number, address: number, bytes: number, flags: number): number
  send(fd: number, address: number, bytes: number, flags: number): number
  setsockopt(fd: number, level: number, option: number, value: Uint8Array): number
  /** `fds` holds `count` structures of 8 bytes; `timeout` is a timespec, null: for ever. */
  ppoll(fds: Uint8Array, count: number, timeout: Uint8Array | null): number
  lseek(fd: number, offset: number, whence: number): number
  fallocate(fd: number, mode: number, offset: number, length: number): number
  /** As {@link Libc.fallocate}, on another thread. */
  fallocateAsync(fd: number, mode: number, offset: number, length: number): Promise<number>
  syncFileRange(fd: number, offset: number, bytes: number, flags: number): number
  /** As {@link Libc.syncFileRange}, on another thread. */
  syncFileRangeAsync(fd: number, offset: number, bytes: number, flags: number): Promise<number>
  fcntl(fd: number, command: number, argument: Uint8Array): number
  ioctl(fd: number, request: number, argument: Uint8Array): number
  /** As {@link Libc.ioctl}, for requests whose argument is a number. */
  ioctlValue(fd: number, request: number, value: number): number
  /** As {@link Libc.ioctlValue}, on another thread. */
  ioctlValueAsync(fd: number, request: number, value: number): Promise<number>
  /** As {@link Libc.ioctl}, on another thread. */
  ioctlAsync(fd: number, request: number, argument: Uint8Array): Promise<number>
  /** Returns the bytes copied. */
  copyFileRange(from: number, fromOffset: number, to: number, toOffset: number, length: number): number
  /** As {@link Libc.copyFileRange}, on another thread. */
  copyFileRangeAsync(
    from: number,
    fromOffset: number,
    to: number,
    toOffset: number,
    length: number,
  ): Promise<number>
  fadvise(fd: number, offset: number, length: number, advice: number): number
  /** Address of a buffer's first byte. */
  address(buffer: Uint8Array): number
  /** io_uring_setup(2): the ring's descriptor; `params` (120 bytes) is filled in. */
  uringSetup(entries: number, params: Uint8Array): number
  /** io_uring_enter(2). `argument` belongs to the flags; null: none. */
  uringEnter(
    fd: number,
    submit: number,
    complete: number,
    flags: number,
    argument: Uint8Array | null,
    argumentBytes: number,
  ): number
  /** As {@link Libc.uringEnter} without an argument, on another thread. */
  uringEnterAsync(fd: number, submit: number, complete: number, flags: number): Promise<number>
  /** io_uring_register(2). */
  uringRegister(fd: number, operation: number, argument: Uint8Array, count: number): number
  /** Maps `[offset, +bytes)` of a descriptor, shared and writable; undefined: refused. */
  map(fd: number, offset: number, bytes: number): Mapping | undefined
}

/** Memory that came from mmap(2). Nothing may look at `memory` after {@link Mapping.unmap}. */
export interface Mapping {
  readonly memory: ArrayBuffer
  unmap(): void
}

const ENOSYS = 38

/** Numbers of system calls, the same on every architecture. */
const SYS_io_uring_setup = 425
const SYS_io_uring_enter = 426
const SYS_io_uring_register = 427

/** PROT_READ | PROT_WRITE */
const PROT = 3
/** MAP_SHARED | MAP_POPULATE */
const MAP = 0x8001

let cached: Libc | undefined | null = null

/** The binding, loaded on first use; undefined where koffi or a libc it can load is missing. */
export function libc(): Libc | undefined {
  if (cached === null) {
    cached = load()
  }
  return cached
}

function load(): Libc | undefined {
  const caller = koffi()
  if (caller === undefined) {
    return undefined
  }
  try {
    return bind(caller, loadLibrary(caller))
  } catch {
    return undefined
  }
}

function loadLibrary(caller: Koffi): Library {
  try {
    return caller.load('libc.so.6')
  } catch {
    // musl has no file of that name; its functions are part of the process all the same.
    return caller.load(null)
  }
}

function bind(caller: Koffi, library: Library): Libc {
  // Declaring a function costs, and most commands need two or three of these.
  const lazy = (declaration: string): (() => KoffiFunction | undefined) => {
    let f: KoffiFunction | undefined | null = null
    return () => {
      if (f === null) {
        try {
          f = library.func(declaration)
        } catch {
          // An older libc without this function.
          f = undefined
        }
      }
      return f
    }
  }
  const preadv2 = lazy('int preadv2(int fd, uintptr_t iov, int count, int64 offset, int flags)')
  const recv = lazy('int recv(int fd, uintptr_t address, size_t bytes, int flags)')
  const send = lazy('int send(int fd, uintptr_t address, size_t bytes, int flags)')
  const setsockopt = lazy('int setsockopt(int fd, int level, int option, void *value, uint32 bytes)')
  const ppoll = lazy('int ppoll(void *fds, uint64 count, void *timeout, void *mask)')
  const lseek = lazy('int64 lseek(int fd, int64 offset, int whence)')
  const fallocate = lazy('int fallocate(int fd, int mode, int64 offset, int64 length)')
  const syncFileRange = lazy('int sync_file_range(int fd, int64 offset, int64 length, uint32 flags)')
  const fcntl = lazy('int fcntl(int fd, int command, void *argument)')
  const ioctl = lazy('int ioctl(int fd, uint64 request, void *argument)')
  const ioctlValue = lazy('int ioctl(int fd, uint64 request, uint64 value)')
  const copy = lazy(
    'int64 copy_file_range(int from, void *fromOffset, int to, void *toOffset, size_t length, uint32 flags)',
  )
  const fadvise = lazy('int posix_fadvise(int fd, int64 offset, int64 length, int advice)')
  const uringSetup = lazy('long syscall(long number, uint32 entries, void *params)')
  const uringEnter = lazy(
    'long syscall(long number, uint32 fd, uint32 submit, uint32 complete, uint32 flags, void *argument, size_t bytes)',
  )
  const uringRegister = lazy(
    'long syscall(long number, uint32 fd, uint32 operation, void *argument, uint32 count)',
  )
  const mmap = lazy('void *mmap(void *place, size_t bytes, int protection, int flags, int fd, int64 offset)')
  const munmap = lazy('int munmap(void *place, size_t bytes)')
  const getpagesize = lazy('int getpagesize()')

  const outcome = (result: number | bigint): number => {
    const number = Number(result)
    return number < 0 ? -caller.errno() : number
  }
  /** As {@link outcome}, of a result that is a number for certain. */
  const short = (result: number | bigint): number =>
    (result as number) < 0 ? -caller.errno() : (result as number)
  const now = (f: KoffiFunction | undefined, ...args: unknown[]): number =>
    f === undefined ? -ENOSYS : outcome(f(...args))

  const later = (f: KoffiFunction | undefined, ...args: unknown[]): Promise<number> =>
    f === undefined ? Promise.resolve(-ENOSYS) : callLater(f, args, outcome)

  const boxed = (offset: number): BigInt64Array => BigInt64Array.of(BigInt(offset))
  return {
    get pageSize() {
      const bytes = now(getpagesize())
      return bytes > 0 ? bytes : 4096
    },
    address: (buffer) => Number(caller.address(buffer)),
    preadv2: (fd, iov, count, offset, flags) => {
      const f = preadv2()
      return f === undefined ? -ENOSYS : short(f(fd, iov, count, offset, flags))
    },
    recv: (fd, address, bytes, flags) => {
      const f = recv()
      return f === undefined ? -ENOSYS : short(f(fd, address, bytes, flags))
    },
    send: (fd, address, bytes, flags) => {
      const f = send()
      return f === undefined ? -ENOSYS : short(f(fd, address, bytes, flags))
    },
    setsockopt: (fd, level, option, value) => now(setsockopt(), fd, level, option, value, value.length),
    ppoll: (fds, count, timeout) => {
      const f = ppoll()
      return f === undefined ? -ENOSYS : outcome(f(fds, count, timeout, null))
    },
    lseek: (fd, offset, whence) => {
      const f = lseek()
      return f === undefined ? -ENOSYS : outcome(f(fd, offset, whence))
    },
    fallocate: (fd, mode, offset, length) => now(fallocate(), fd, mode, offset, length),
    fallocateAsync: (fd, mode, offset, length) => later(fallocate(), fd, mode, offset, length),
    syncFileRange: (fd, offset, bytes, flags) => now(syncFileRange(), fd, offset, bytes, flags),
    syncFileRangeAsync: (fd, offset, bytes, flags) => later(syncFileRange(), fd, offset, bytes, flags),
    fcntl: (fd, command, argument) => now(fcntl(), fd, command, argument),
    ioctl: (fd, request, argument) => now(ioctl(), fd, request, argument),
    ioctlValue: (fd, request, value) => now(ioctlValue(), fd, request, value),
    ioctlValueAsync: (fd, request, value) => later(ioctlValue(), fd, request, value),
    ioctlAsync: (fd, request, argument) => later(ioctl(), fd, request, argument),
    copyFileRange: (from, fromOffset, to, toOffset, length) =>
      now(copy(), from, boxed(fromOffset), to, boxed(toOffset), length, 0),
    copyFileRangeAsync: (from, fromOffset, to, toOffset, length) =>
      later(copy(), from, boxed(fromOffset), to, boxed(toOffset), length, 0),
    fadvise: (fd, offset, length, advice) => {
      const f = fadvise()
      // The one function here that returns its error instead of setting errno.
      return f === undefined ? -ENOSYS : -Number(f(fd, offset, length, advice))
    },
    uringSetup: (entries, params) => now(uringSetup(), SYS_io_uring_setup, entries, params),
    uringEnter: (fd, submit, complete, flags, argument, argumentBytes) => {
      const f = uringEnter()
      return f === undefined
        ? -ENOSYS
        : outcome(f(SYS_io_uring_enter, fd, submit, complete, flags, argument, argumentBytes))
    },
    uringEnterAsync: (fd, submit, complete, flags) =>
      later(uringEnter(), SYS_io_uring_enter, fd, submit, complete, flags, null, 0),
    uringRegister: (fd, operation, argument, count) =>
      now(uringRegister(), SYS_io_uring_register, fd, operation, argument, count),
    map: (fd, offset, bytes) => {
      const pointer: unknown = mmap()?.(null, bytes, PROT, MAP, fd, offset)
      // MAP_FAILED is the highest address.
      if (pointer === undefined || pointer === null || caller.address(pointer) >= 1n << 63n) {
        return undefined
      }
      return { memory: caller.view(pointer, bytes), unmap: () => void munmap()?.(pointer, bytes) }
    },
  }
}
