import { deflateSync } from 'node:zlib'

/** A compressed loop image of version 2.0. The disk is cut into whole blocks. */
export function buildCloop(disk: Uint8Array, blockBytes = 16384): Uint8Array {
  const head = Buffer.alloc(136)
  head.write('#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n', 0)
  const blocks: Buffer[] = []
  for (let at = 0; at < disk.length; at += blockBytes) {
    const block = Buffer.alloc(blockBytes)
    block.set(disk.subarray(at, at + blockBytes))
    blocks.push(deflateSync(block, { level: 1 + (blocks.length % 9) }))
  }
  head.writeUInt32BE(blockBytes, 128)
  head.writeUInt32BE(blocks.length, 132)
  const table = Buffer.alloc((blocks.length + 1) * 8)
  let offset = head.length + table.length
  for (const [i, block] of blocks.entries()) {
    table.writeBigUInt64BE(BigInt(offset), i * 8)
    offset += block.length
  }
  table.writeBigUInt64BE(BigInt(offset), blocks.length * 8)
  return Buffer.concat([head, table, ...blocks])
}
