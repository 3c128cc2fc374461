import type { OptionTree } from '../options/index.js'

/** Of a redolog of Bochs. */
export type BochsDetails = {
  /** Bytes. */
  readonly 'extent-size': number
  /** Entries of the catalog. */
  readonly extents: number
}

/** Of a compressed loop image. */
export type CloopDetails = {
  /** Bytes, before compression. */
  readonly 'block-size': number
  readonly blocks: number
}

/** What a chunk of a UDIF image may be. */
export type DmgChunkKind = 'zero' | 'raw' | 'ignore' | 'adc' | 'zlib' | 'bzip2' | 'lzfse' | 'lzma' | 'unknown'

/** Of a UDIF image: how many chunks there are, and of which kind. Kinds that do not occur are absent. */
export type DmgDetails = { readonly chunks: number } & {
  readonly [K in `${DmgChunkKind}-chunks`]?: number
}

/** Of a Parallels disk. */
export type ParallelsDetails = {
  /** The first kind has a magic that ends otherwise, and a block table in sectors. */
  readonly kind: 'WithoutFreeSpace' | 'WithouFreSpacExt'
  /** Bytes. */
  readonly 'cluster-size': number
  /** Entries of the block table. */
  readonly clusters: number
  /** Whether the image was not closed. */
  readonly 'in-use': boolean
  readonly 'format-extension': boolean
}

/** Of an image of QEMU's first copy-on-write format. */
export type QcowDetails = {
  /** Entries of a second-level table. */
  readonly 'l2-size': number
  readonly encryption: 'none' | 'aes'
}

/** Of a QED image. */
export type QedDetails = {
  /** Clusters of a table. */
  readonly 'table-size': number
  /** Whether the image was not closed. */
  readonly 'need-check': boolean
  readonly 'backing-is-raw': boolean
}

/** Of a VirtualBox disk. */
export type VdiDetails = {
  readonly kind: 'dynamic' | 'static'
  readonly uuid: string
  /** Changes with every change of the contents. */
  readonly 'snapshot-uuid': string
  /** Bytes. */
  readonly 'block-size': number
  readonly blocks: number
  /** As the header counts them. */
  readonly 'allocated-blocks': number
  /** Absent if it is empty. */
  readonly description?: string
}

/** Of a VHDX. */
export type VhdxDetails = {
  readonly kind: 'fixed' | 'dynamic' | 'differencing'
  /** `VirtualDiskId`: the same for all copies. */
  readonly 'disk-id': string
  /** Bytes, as are the sectors and the log. */
  readonly 'block-size': number
  readonly 'logical-sector-size': number
  readonly 'physical-sector-size': number
  /** Another one after every open for writing. */
  readonly 'file-write-guid': string
  /** Another one after every session that wrote to the contents. */
  readonly 'data-write-guid': string
  readonly 'log-size': number
  /** Whether the image was not closed: its log is to be replayed. */
  readonly 'log-in-use': boolean
  /** The parent locator of a differencing disk, by its keys. */
  readonly parent?: { readonly [key: string]: string }
}

/** Of a VMware disk, as its descriptor has it; what that lacks is absent. */
export type VmdkDetails = {
  readonly 'parent-file-name'?: string
  readonly 'adapter-type'?: string
  readonly 'hardware-version'?: string
  readonly 'tools-version'?: string
  readonly cylinders?: string
  readonly heads?: string
  readonly sectors?: string
  readonly uuid?: string
  readonly 'long-content-id'?: string
}

/** Of a VHD. */
export type VpcDetails = {
  readonly kind: 'fixed' | 'dynamic' | 'differencing' | `unknown (${number})`
  readonly uuid: string
  /** ISO 8601, UTC. */
  readonly created: string
  readonly 'creator-application': string
  /** `major.minor`. */
  readonly 'creator-version': string
  readonly 'creator-host': string
  readonly geometry: { readonly cylinders: number; readonly heads: number; readonly sectors: number }
  /** What the footer calls the size of the disk, bytes; which size counts depends on the creator. */
  readonly 'current-size': number
  /** Bytes; absent for fixed disks. */
  readonly 'block-size'?: number
  /** These two of differencing disks alone. */
  readonly 'parent-uuid'?: string
  readonly 'parent-name'?: string
}

/**
 * What a format records of an image and QEMU does not show: identifiers, kinds, creators, parents, sizes. `type` is the
 * driver; drivers from outside this package have types that begin with `x-`.
 */
export type FormatDetails =
  | { readonly type: 'bochs'; readonly data: BochsDetails }
  | { readonly type: 'cloop'; readonly data: CloopDetails }
  | { readonly type: 'dmg'; readonly data: DmgDetails }
  | { readonly type: 'parallels'; readonly data: ParallelsDetails }
  | { readonly type: 'qcow'; readonly data: QcowDetails }
  | { readonly type: 'qed'; readonly data: QedDetails }
  | { readonly type: 'vdi'; readonly data: VdiDetails }
  | { readonly type: 'vhdx'; readonly data: VhdxDetails }
  | { readonly type: 'vmdk'; readonly data: VmdkDetails }
  | { readonly type: 'vpc'; readonly data: VpcDetails }
  | { readonly type: `x-${string}`; readonly data: OptionTree }
