/** Decoders that platforms do not bring along. They work on bytes in memory. */
export { decodeAdc } from './adc.js'
export { Bzip2Decoder, type Bzip2Part, decodeBzip2, joinCrc, maxBlockInput } from './bzip2.js'
export { Crc64, crc32 } from './checksums.js'
export { decodeLzfse } from './lzfse.js'
export { type Lzma2Chunk, Lzma2Decoder, maxChunkInput, maxChunkOutput } from './lzma2.js'
export { decodeXz, XzCheck } from './xz.js'
export * from './xz-container.js'
