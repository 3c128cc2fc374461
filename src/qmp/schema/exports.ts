import { defineTypes } from './define.js'

/** Exports and the NBD server. Names and members are QAPI's. */
export const exportsTypes = defineTypes({
  NbdServerOptions: {
    struct: {
      addr: 'SocketAddress',
      '*tls-creds': 'str',
      '*tls-authz': 'str',
      '*max-connections': 'uint32',
    },
  },
  NbdServerAddOptions: {
    struct: { '*name': 'str', '*description': 'str', device: 'str', '*writable': 'bool', '*bitmap': 'str' },
  },
  BlockExportOptions: {
    union: {
      type: 'BlockExportType',
      id: 'str',
      '*fixed-iothread': 'bool',
      '*iothread': 'str',
      'node-name': 'str',
      '*writable': 'bool',
      '*writethrough': 'bool',
    },
    tag: 'type',
    branches: {
      nbd: 'BlockExportOptionsNbd',
      'vhost-user-blk': 'BlockExportOptionsVhostUserBlk',
      fuse: 'BlockExportOptionsFuse',
      'vduse-blk': 'BlockExportOptionsVduseBlk',
    },
  },
  BlockExportInfo: {
    struct: { id: 'str', type: 'BlockExportType', 'node-name': 'str', 'shutting-down': 'bool' },
  },
  BlockExportRemoveMode: { enum: ['safe', 'hard'] },
  BlockExportType: { enum: ['nbd', 'vhost-user-blk', 'fuse', 'vduse-blk'] },
  BlockExportOptionsNbd: {
    struct: {
      '*name': 'str',
      '*description': 'str',
      '*bitmaps': '[BlockDirtyBitmapOrStr]',
      '*allocation-depth': 'bool',
    },
  },
  BlockExportOptionsVhostUserBlk: {
    struct: { addr: 'SocketAddress', '*logical-block-size': 'size', '*num-queues': 'uint16' },
  },
  BlockExportOptionsFuse: {
    struct: { mountpoint: 'str', '*growable': 'bool', '*allow-other': 'FuseExportAllowOther' },
  },
  BlockExportOptionsVduseBlk: {
    struct: {
      name: 'str',
      '*num-queues': 'uint16',
      '*queue-size': 'uint16',
      '*logical-block-size': 'size',
      '*serial': 'str',
    },
  },
  FuseExportAllowOther: { enum: ['off', 'on', 'auto'] },
})
