import { defineOptions } from '../../../options/index.js'

export const qcowOptions = defineOptions({
  'encrypt.format': { type: 'string', help: "Format of the encryption, 'aes', if it shall be checked" },
  'encrypt.key-secret': { type: 'string', help: 'ID of secret providing the AES key' },
})

export const qcowCreateOptions = defineOptions({
  size: { type: 'size', help: 'Virtual disk size' },
  backing_file: { type: 'string', help: 'File name of a base image' },
  backing_fmt: { type: 'string', help: 'Format of the backing image' },
  encryption: {
    type: 'bool',
    help: "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
  },
  'encrypt.format': { type: 'string', help: "Encrypt the image, format choices: 'aes'" },
  'encrypt.key-secret': {
    type: 'string',
    help: 'ID of the secret that provides the AES encryption key',
  },
})
