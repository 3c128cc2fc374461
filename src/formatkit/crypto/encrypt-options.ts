import { blockError } from '../../errors/index.js'

const prefix = 'encrypt.'

/** What `encrypt.format` may be: the legacy method, or LUKS. */
export type EncryptFormat = 'aes' | 'luks'

/** What the create options of an image say of encryption. */
export interface EncryptChoice {
  readonly format: EncryptFormat
  /** Id of a secret. */
  readonly keySecret: string | undefined
}

/**
 * What the create options `encryption` and `encrypt.*` say; undefined without any. Options for LUKS alone
 * are not looked at if that is the format.
 *
 * @throws EINVAL with QEMU's texts
 */
export function encryptChoice(
  values: Readonly<Record<string, string | number | boolean>>,
): EncryptChoice | undefined {
  const legacyAlias = values.encryption === true
  const given = values['encrypt.format']
  if (legacyAlias && given !== undefined) {
    throw blockError('EINVAL', "'encrypt.format' and its alias 'encryption' can't be used at the same time")
  }
  const format = legacyAlias ? 'aes' : given
  const names = Object.keys(values).filter((name) => name.startsWith(prefix))
  if (format === undefined) {
    if (names.length > 0) {
      throw blockError('EINVAL', "Parameter 'encrypt.format' is missing")
    }
    return undefined
  }
  const secret = values['encrypt.key-secret']
  const keySecret = secret === undefined ? undefined : String(secret)
  switch (format) {
    case 'aes':
    case 'qcow': {
      const extra = names.find((name) => name !== 'encrypt.format' && name !== 'encrypt.key-secret')
      if (extra !== undefined) {
        throw blockError('EINVAL', `Parameter '${extra}' is unexpected`)
      }
      return { format: 'aes', keySecret }
    }
    case 'luks':
      return { format: 'luks', keySecret }
    default:
      throw blockError('EINVAL', `Parameter 'format' does not accept value '${String(format)}'`)
  }
}

/**
 * Compares what the options of an open say of the format with what the image is.
 *
 * @throws EINVAL with QEMU's texts
 */
export function checkEncryptFormat(given: string | undefined, found: EncryptFormat | undefined): void {
  if (given === undefined || given === found) {
    return
  }
  throw blockError(
    'EINVAL',
    found === undefined
      ? `No encryption in image header, but options specified format '${given}'`
      : `Header reported '${found}' encryption format but options specify '${given}'`,
  )
}
