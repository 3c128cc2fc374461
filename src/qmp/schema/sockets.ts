import { defineTypes } from './define.js'

/** Addresses of sockets. Names and members are QAPI's. */
export const socketsTypes = defineTypes({
  SocketAddressLegacy: {
    union: { type: 'SocketAddressType' },
    tag: 'type',
    branches: {
      inet: 'InetSocketAddressWrapper',
      unix: 'UnixSocketAddressWrapper',
      vsock: 'VsockSocketAddressWrapper',
      fd: 'StringWrapper',
    },
  },
  CanHostSocketcanProperties: { struct: { if: 'str', canbus: 'str' } },
  SocketAddress: {
    union: { type: 'SocketAddressType' },
    tag: 'type',
    branches: {
      inet: 'InetSocketAddress',
      unix: 'UnixSocketAddress',
      vsock: 'VsockSocketAddress',
      fd: 'String',
    },
  },
  InetSocketAddressBase: { struct: { host: 'str', port: 'str' } },
  InetSocketAddress: {
    struct: {
      host: 'str',
      port: 'str',
      '*numeric': 'bool',
      '*to': 'int',
      '*ipv4': 'bool',
      '*ipv6': 'bool',
      '*keep-alive': 'bool',
      '*mptcp': 'bool',
    },
  },
  SocketAddressType: { enum: ['inet', 'unix', 'vsock', 'fd'] },
  InetSocketAddressWrapper: { struct: { data: 'InetSocketAddress' } },
  UnixSocketAddressWrapper: { struct: { data: 'UnixSocketAddress' } },
  VsockSocketAddressWrapper: { struct: { data: 'VsockSocketAddress' } },
  StringWrapper: { struct: { data: 'String' } },
  UnixSocketAddress: { struct: { path: 'str', '*abstract': 'bool', '*tight': 'bool' } },
  VsockSocketAddress: { struct: { cid: 'str', port: 'str' } },
  String: { struct: { str: 'str' } },
})
