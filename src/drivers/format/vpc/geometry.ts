/** How a VHD's size and its cylinders, heads and sectors relate (VHD 1.0, appendix "CHS Calculation"). */

export const sectorBytes = 512

/** Largest geometry: a disk that has it is as long as its footer says. Sectors. */
export const maxGeometrySectors = 65535 * 16 * 255

/** Largest disk, 2040 GiB, in sectors. */
export const maxSectors = 0xff000000

export interface Geometry {
  readonly cylinders: number
  readonly heads: number
  readonly sectors: number
}

/** What disks get that are longer than any geometry, or whose length must not depend on it. */
export const largestGeometry: Geometry = { cylinders: 65535, heads: 16, sectors: 255 }

export function geometrySectors({ cylinders, heads, sectors }: Geometry): number {
  return cylinders * heads * sectors
}

/** The geometry of a disk of `total` sectors, which holds at most that many. */
export function geometryFor(total: number): Geometry {
  const count = Math.min(total, maxGeometrySectors)
  if (count >= 65535 * 16 * 63) {
    return { cylinders: Math.floor(Math.floor(count / 255) / 16), heads: 16, sectors: 255 }
  }
  let sectors = 17
  let tracks = Math.floor(count / sectors)
  let heads = Math.max(4, Math.ceil(tracks / 1024))
  if (tracks >= heads * 1024 || heads > 16) {
    sectors = 31
    heads = 16
    tracks = Math.floor(count / sectors)
  }
  if (tracks >= heads * 1024) {
    sectors = 63
    heads = 16
    tracks = Math.floor(count / sectors)
  }
  return { cylinders: Math.floor(tracks / heads), heads, sectors }
}

export interface RoundedSize {
  readonly geometry: Geometry
  /** Length of the disk, sectors. */
  readonly total: number
}

/**
 * The smallest size from `bytes` on that a geometry can say, or `bytes` itself where none can or
 * with `force`.
 */
export function roundedSize(bytes: number, force: boolean): RoundedSize {
  const wanted = Math.ceil(bytes / sectorBytes)
  if (force) {
    return { geometry: largestGeometry, total: wanted }
  }
  const target = Math.min(wanted, maxGeometrySectors)
  let geometry = geometryFor(target)
  for (let more = 1; geometrySectors(geometry) < target; more++) {
    geometry = geometryFor(target + more)
  }
  const total = geometrySectors(geometry)
  return total === maxGeometrySectors ? { geometry, total: wanted } : { geometry, total }
}
