import { blkdebug } from './drivers/filter/blkdebug/index.js'
import { blklogwrites } from './drivers/filter/blklogwrites/index.js'
import { blkverify } from './drivers/filter/blkverify/index.js'
import { compress } from './drivers/filter/compress/index.js'
import { compressed } from './drivers/filter/compressed/index.js'
import { copyBeforeWrite } from './drivers/filter/copy-before-write/index.js'
import { copyOnRead } from './drivers/filter/copy-on-read/index.js'
import { ova } from './drivers/filter/ova/index.js'
import { preallocate } from './drivers/filter/preallocate/index.js'
import { quorum } from './drivers/filter/quorum/index.js'
import { snapshotAccess } from './drivers/filter/snapshot-access/index.js'
import { throttle } from './drivers/filter/throttle/index.js'
import { bochs } from './drivers/format/bochs/index.js'
import { cloop } from './drivers/format/cloop/index.js'
import { dmg } from './drivers/format/dmg/index.js'
import { luks } from './drivers/format/luks/index.js'
import { parallels } from './drivers/format/parallels/index.js'
import { qcow } from './drivers/format/qcow/index.js'
import { qcow2 } from './drivers/format/qcow2/index.js'
import { qed } from './drivers/format/qed/index.js'
import { raw } from './drivers/format/raw/index.js'
import { vdi } from './drivers/format/vdi/index.js'
import { vhdx } from './drivers/format/vhdx/index.js'
import { vmdk } from './drivers/format/vmdk/index.js'
import { vpc } from './drivers/format/vpc/index.js'
import { file } from './drivers/protocol/file/index.js'
import { hostDevice } from './drivers/protocol/host_device/index.js'
import { http, https } from './drivers/protocol/http/index.js'
import { nbd, nbdTcp, nbdUnix } from './drivers/protocol/nbd/index.js'
import { nullAio, nullCo } from './drivers/protocol/null/index.js'
import { ssh } from './drivers/protocol/ssh/index.js'
import { vvfat } from './drivers/protocol/vvfat/index.js'
import type { BlockDriver } from './graph/index.js'

/**
 * Every driver of the package in registration order. Later ones are asked first when an image is
 * probed, and only a strictly greater score wins, so the order decides ties.
 */
export const allDrivers: readonly BlockDriver[] = [
  blkdebug,
  blklogwrites,
  blkverify,
  copyOnRead,
  copyBeforeWrite,
  snapshotAccess,
  compress,
  compressed,
  ova,
  preallocate,
  throttle,
  luks,
  quorum,
  raw,
  qcow,
  qcow2,
  qed,
  vdi,
  vhdx,
  vpc,
  vmdk,
  bochs,
  cloop,
  dmg,
  parallels,
  vvfat,
  nbd,
  nbdTcp,
  nbdUnix,
  http,
  https,
  ssh,
  nullCo,
  nullAio,
  file,
  hostDevice,
]
