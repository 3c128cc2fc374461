import { blockError } from '../../errors/index.js'
import type { HashName, Host } from '../../host/index.js'
import type { IoNode } from '../../io/index.js'
import { readPadded } from '../read-padded.js'
import { type OvfDisk, readOvf } from './ovf.js'
import { listTar, type TarMember } from './tar.js'

/** Descriptors and manifests are held in memory; larger ones are refused. Bytes. */
const maxTextBytes = 4 << 20

/** A disk of a package whose contents are a file in it. */
export interface PackagedDisk extends OvfDisk {
  readonly member: TarMember
  /** As in the descriptor; undefined or `identity`: none. */
  readonly compression: string | undefined
}

/** What a manifest says of a file. */
export interface ManifestLine {
  readonly hash: HashName
  readonly name: string
  /** Hexadecimal digits, in lower case. */
  readonly digest: string
}

/** An OVA: an OVF descriptor with its disks in one archive. */
export interface OvaPackage {
  readonly descriptor: TarMember
  readonly members: readonly TarMember[]
  readonly disks: readonly PackagedDisk[]
  /** Undefined: the package has no manifest. */
  readonly manifest: readonly ManifestLine[] | undefined
}

/**
 * Reads headers, descriptor and manifest; the disks are not touched.
 *
 * @throws BlockError EINVAL with what is wrong; ENOTSUP on platforms without XML
 */
export async function readOva(file: IoNode, host: Host): Promise<OvaPackage> {
  const members = await listTar(file)
  const descriptor = members.find(({ name }) => /\.ovf$/i.test(name))
  if (descriptor === undefined) {
    throw blockError('EINVAL', `'${file.nodeName}' is no OVA: it has no OVF descriptor`)
  }
  if (host.xml === undefined) {
    throw blockError('ENOTSUP', 'XML is not available')
  }
  const { files, disks } = readOvf(await host.xml.parse(await textOf(file, descriptor)))
  const packaged: PackagedDisk[] = []
  for (const disk of disks) {
    if (disk.fileRef === undefined) {
      continue
    }
    const reference = files.find(({ id }) => id === disk.fileRef)
    if (reference === undefined) {
      throw blockError(
        'EINVAL',
        `Disk '${disk.id}' refers to file '${disk.fileRef}', which the descriptor lacks`,
      )
    }
    if (reference.chunked) {
      throw blockError('ENOTSUP', `File '${reference.href}' is split into chunks`)
    }
    const names = [reference.href, unquoted(reference.href)]
    const member = members.find(({ name }) => names.includes(name))
    if (member === undefined) {
      throw blockError('EINVAL', `File '${reference.href}' of disk '${disk.id}' is not in the package`)
    }
    packaged.push({ ...disk, member, compression: reference.compression })
  }
  const listed = members.find(({ name }) => /\.mf$/i.test(name))
  return {
    descriptor,
    members,
    disks: packaged,
    manifest: listed === undefined ? undefined : readManifest(await textOf(file, listed), listed.name),
  }
}

/** References are URIs; many programs write plain names all the same. */
function unquoted(href: string): string {
  try {
    return decodeURIComponent(href)
  } catch {
    return href
  }
}

async function textOf(file: IoNode, member: TarMember): Promise<string> {
  if (member.bytes > maxTextBytes) {
    throw blockError('EFBIG', `'${member.name}' has ${member.bytes} bytes, at most ${maxTextBytes} are read`)
  }
  const data = new Uint8Array(member.bytes)
  const wait = readPadded(file, member.offset, data)
  if (wait !== undefined) {
    await wait
  }
  return new TextDecoder().decode(data)
}

/** Lines such as `SHA256(disk.vmdk)= 0123…`. */
function readManifest(text: string, name: string): ManifestLine[] {
  const lines: ManifestLine[] = []
  for (const line of text.split(/\r?\n/)) {
    if (line.trim() === '') {
      continue
    }
    const match = /^(SHA1|SHA256|SHA512)\s*\((.+)\)\s*=\s*([\da-f]+)\s*$/i.exec(line)
    if (match === null) {
      throw blockError('EINVAL', `Line '${line.slice(0, 100)}' of '${name}' cannot be read`)
    }
    const [, hash = '', file = '', digest = ''] = match
    lines.push({ hash: hash.toLowerCase() as HashName, name: file, digest: digest.toLowerCase() })
  }
  return lines
}

/** The disk called `name`: by its identifier or the name of its file; without a name the only one. */
export function chooseDisk({ disks }: OvaPackage, name: string | undefined): PackagedDisk {
  const names = disks.map(({ member }) => `'${member.name}'`).join(', ')
  if (name === undefined) {
    const [only, another] = disks
    if (only === undefined) {
      throw blockError('EINVAL', 'The package has no disk')
    }
    if (another !== undefined) {
      throw blockError('EINVAL', `The package has several disks; name one with 'disk': ${names}`)
    }
    return only
  }
  const found = disks.find(({ id, member }) => member.name === name || id === name)
  if (found === undefined) {
    throw blockError('ENOENT', `The package has no disk '${name}'; there is ${names === '' ? 'none' : names}`)
  }
  return found
}
