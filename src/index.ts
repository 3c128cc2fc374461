/**
 * blockgraph: virtual disk images as a library.
 *
 * The functions here work on a block layer of their own, made on first use, with every driver of
 * the package on Node's file system. {@link createLibrary} gives the same functions over drivers,
 * a platform or a policy of your choice.
 */
import { allDrivers } from './all-drivers.js'
import { luksCreateSchema } from './drivers/format/luks/options.js'
import { parallelsCreateOptions } from './drivers/format/parallels/options.js'
import { qcowCreateOptions } from './drivers/format/qcow/options.js'
import { qcow2CreateOptions } from './drivers/format/qcow2/options.js'
import { qedCreateOptions } from './drivers/format/qed/options.js'
import { rawCreateOptions } from './drivers/format/raw/options.js'
import { vdiCreateOptions } from './drivers/format/vdi/options.js'
import { vhdxCreateOptions } from './drivers/format/vhdx/options.js'
import { vmdkCreateOptions } from './drivers/format/vmdk/options.js'
import { vpcCreateOptions } from './drivers/format/vpc/options.js'
import { fileCreateOptions } from './drivers/protocol/file/options.js'
import { type BlockLayer, type BlockLayerOptions, createBlockLayer } from './graph/index.js'
import {
  bindLibrary,
  type ConnectOptions,
  connectMonitor,
  type Library,
  type QmpAddress,
} from './library/index.js'
import { createNodeHost } from './platform/node/index.js'
import type { QmpClient } from './qmp/index.js'

export { allDrivers } from './all-drivers.js'
export { BlockError, type ErrnoName, type ErrorPlace, isBlockError } from './errors/index.js'
export { NbdExport, type NbdExportOptions, NbdServer, type NbdServerOptions } from './exports/index.js'
export { addSecret, Secret } from './formatkit/crypto/index.js'
export { addTlsCredentials, TlsCredentials } from './formatkit/tls/index.js'
export {
  AioContext,
  allowImplicitFiles,
  Backend,
  type BlockDirtyInfo,
  type BlockDriver,
  BlockLayer,
  type BlockLayerOptions,
  BlockNode,
  type BochsDetails,
  type CloopDetails,
  createBlockLayer,
  createIoThread,
  type DeviceModel,
  type DeviceOps,
  type DmgChunkKind,
  type DmgDetails,
  type DriverModule,
  type DriverState,
  denyImplicitFiles,
  type FormatDetails,
  type ImplicitFile,
  type ImplicitFilePolicy,
  implicitFilesWithin,
  type ParallelsDetails,
  Perm,
  type QcowDetails,
  type QedDetails,
  Role,
  type VdiDetails,
  type VhdxDetails,
  type VmdkDetails,
  type VpcDetails,
} from './graph/index.js'
export type { Host, HostThread, HostThreads } from './host/index.js'
export type {
  AmendImageOptions,
  BitmapAction,
  ChangeBitmapOptions,
  CheckImageResult,
  CommitImageOptions,
  CommitResult,
  CompactImageOptions,
  CompactResult,
  CompareResult,
  ConvertResult,
  CreateImageResult,
  CreateOvaOptions,
  CreateOvaResult,
  DiskContents,
  ImageInfo,
  ImageSpec,
  MapExtent,
  OvaContents,
  OvaDisk,
  RebaseImageOptions,
  SnapshotOptions,
  SnapshotWanted,
  VerifiedFile,
} from './image/index.js'
export { type AccountingOptions, IoAccounting } from './io/index.js'
export {
  BlockJob,
  type BlockJobInfo,
  Job,
  type JobInfo,
  type JobOnError,
  type JobProgressInfo,
  JobRegistry,
  type JobStatus,
  JobTransaction,
  type JobType,
} from './jobs/index.js'
export * from './library/index.js'
export { createReadStream, createWriteStream } from './node-streams.js'
export { createNodeHost, type NodeHostOptions } from './platform/node/index.js'
export type {
  ArgumentsOf,
  CommandName,
  EventDataOf,
  EventName,
  QmpClient,
  QmpEvent,
  QmpMethods,
  ReturnOf,
} from './qmp/index.js'

const schemas = {
  raw: { ...fileCreateOptions, ...rawCreateOptions },
  qcow2: { ...fileCreateOptions, ...qcow2CreateOptions },
  luks: { ...fileCreateOptions, ...luksCreateSchema },
  qcow: { ...fileCreateOptions, ...qcowCreateOptions },
  qed: { ...fileCreateOptions, ...qedCreateOptions },
  parallels: { ...fileCreateOptions, ...parallelsCreateOptions },
  vdi: { ...fileCreateOptions, ...vdiCreateOptions },
  vhdx: { ...fileCreateOptions, ...vhdxCreateOptions },
  vmdk: { ...fileCreateOptions, ...vmdkCreateOptions },
  vpc: { ...fileCreateOptions, ...vpcCreateOptions },
} as const

export type CreateSchemas = typeof schemas

/** The library's functions over a block layer of their own. Absent options: every driver, Node's file system. */
export function createLibrary(options: Partial<BlockLayerOptions> = {}): Library<CreateSchemas> & {
  readonly layer: BlockLayer
} {
  const layer = createBlockLayer({
    ...options,
    host: options.host ?? createNodeHost(),
    drivers: options.drivers ?? allDrivers,
  })
  return { ...bindLibrary(() => layer, schemas), layer }
}

let shared: BlockLayer | undefined

const library = bindLibrary(() => {
  shared ??= createBlockLayer({ host: createNodeHost(), drivers: allDrivers })
  return shared
}, schemas)

export const openImage: Library<CreateSchemas>['openImage'] = library.openImage
export const createImage: Library<CreateSchemas>['createImage'] = library.createImage
export const convertImage: Library<CreateSchemas>['convertImage'] = library.convertImage
export const compareImages: Library<CreateSchemas>['compareImages'] = library.compareImages
export const commitImage: Library<CreateSchemas>['commitImage'] = library.commitImage
export const rebaseImage: Library<CreateSchemas>['rebaseImage'] = library.rebaseImage
export const checkImage: Library<CreateSchemas>['checkImage'] = library.checkImage
export const compactImage: Library<CreateSchemas>['compactImage'] = library.compactImage
export const createOva: Library<CreateSchemas>['createOva'] = library.createOva
export const listOva: Library<CreateSchemas>['listOva'] = library.listOva
export const verifyOva: Library<CreateSchemas>['verifyOva'] = library.verifyOva
export const changeBitmap: Library<CreateSchemas>['changeBitmap'] = library.changeBitmap
export const imageInfo: Library<CreateSchemas>['imageInfo'] = library.imageInfo
export const imageContents: Library<CreateSchemas>['imageContents'] = library.imageContents
export const mapImage: Library<CreateSchemas>['mapImage'] = library.mapImage
export const measureImage: Library<CreateSchemas>['measureImage'] = library.measureImage

/**
 * Connects to a QMP monitor, of `blockgraph-storage-daemon` or of any program of QEMU.
 *
 * @throws BlockError if nobody listens there, or nobody who speaks QMP
 */
export async function connectQmp(address: QmpAddress, options?: ConnectOptions): Promise<QmpClient> {
  return await connectMonitor(createNodeHost().sockets, address, options)
}
