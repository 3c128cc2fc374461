import { libc } from './libc.js'

// Attributes of a new file that tell the file system how to lay it out.

const FS_IOC_GETFLAGS = 0x80086601
const FS_IOC_SETFLAGS = 0x40086602
const FS_NOCOW_FL = 0x00800000
const FS_IOC_FSGETXATTR = 0x801c581f
const FS_IOC_FSSETXATTR = 0x401c5820
const FS_XFLAG_EXTSIZE = 0x800

/** Turns copy-on-write off for an empty file; without effect where there is none. */
export function setNoCopyOnWrite(fd: number): void {
  const c = libc()
  const flags = new Uint8Array(8)
  if (c !== undefined && c.ioctl(fd, FS_IOC_GETFLAGS, flags) >= 0) {
    const view = new DataView(flags.buffer)
    view.setInt32(0, view.getInt32(0, true) | FS_NOCOW_FL, true)
    c.ioctl(fd, FS_IOC_SETFLAGS, flags)
  }
}

/** Asks for extents of `bytes` (0: no wish). False: the file system has no such thing. */
export function setExtentSizeHint(fd: number, bytes: number): boolean {
  const c = libc()
  // A `struct fsxattr`: flags, extent size, then what stays as it is.
  const attributes = new Uint8Array(28)
  if (c === undefined || c.ioctl(fd, FS_IOC_FSGETXATTR, attributes) < 0) {
    return false
  }
  const view = new DataView(attributes.buffer)
  const flags = view.getUint32(0, true)
  view.setUint32(0, bytes === 0 ? flags & ~FS_XFLAG_EXTSIZE : flags | FS_XFLAG_EXTSIZE, true)
  view.setUint32(4, bytes, true)
  return c.ioctl(fd, FS_IOC_FSSETXATTR, attributes) >= 0
}
