/** Whole-image operations, the same for the library and the tools. May import everything below drivers. */
export * from './amend.js'
export * from './bench.js'
export * from './bitmap.js'
export * from './check.js'
export {
  type CommitImageOptions,
  type CommitNodeOptions,
  type CommitResult,
  commitAll,
  commitImage,
  commitNode,
} from './commit.js'
export * from './compact.js'
export * from './compare.js'
export * from './contents/index.js'
export { type ConvertOptions, type ConvertResult, convertImage } from './convert.js'
export { type CreateImageOptions, type CreateImageResult, createImage } from './create.js'
export {
  type CreateOptionInput,
  CreateOptions,
  type CreateTarget,
  createTarget,
} from './create-options.js'
export * from './dd.js'
export * from './info.js'
export { inQemuOrder } from './key-order.js'
export { type LongRun, throwIfAborted } from './long-run.js'
export * from './map.js'
export * from './measure.js'
export { type ImageSpec, imageLabel, type OpenImageFlags, openImage } from './open.js'
export * from './ova/index.js'
export { type RebaseImageOptions, rebaseImage } from './rebase.js'
export * from './resize.js'
export * from './snapshot.js'
export * from './stream-in.js'
export * from './stream-out.js'
