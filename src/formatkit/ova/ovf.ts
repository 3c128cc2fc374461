import { blockError } from '../../errors/index.js'
import type { XmlElement } from '../../host/index.js'

/** A file that an OVF descriptor refers to. */
export interface OvfFile {
  readonly id: string
  /** Name in the package. */
  readonly href: string
  /** Such as `gzip`; undefined or `identity`: none. */
  readonly compression: string | undefined
  /** Whether it is split into chunks. */
  readonly chunked: boolean
}

export interface OvfDisk {
  readonly id: string
  /** Of an {@link OvfFile}; undefined: an empty disk. */
  readonly fileRef: string | undefined
  /** Length of the disk as it is told, bytes; undefined if it is not or makes no sense. */
  readonly capacity: number | undefined
  /** A URI that names the format. */
  readonly format: string | undefined
  readonly parentRef: string | undefined
}

export interface OvfContents {
  readonly files: readonly OvfFile[]
  readonly disks: readonly OvfDisk[]
}

function* elements(root: XmlElement, name: string): Generator<XmlElement> {
  for (const child of root.children) {
    if (child.name === name) {
      yield child
    }
  }
}

/** What an OVF envelope says of files and disks. @throws BlockError EINVAL if it is none */
export function readOvf(root: XmlElement): OvfContents {
  if (root.name !== 'Envelope') {
    throw blockError('EINVAL', `Root of the OVF descriptor is '${root.name}', not 'Envelope'`)
  }
  const files: OvfFile[] = []
  const disks: OvfDisk[] = []
  for (const section of elements(root, 'References')) {
    for (const { attributes } of elements(section, 'File')) {
      files.push({
        id: attributes.get('id') ?? '',
        href: attributes.get('href') ?? '',
        compression: attributes.get('compression'),
        chunked: attributes.has('chunkSize'),
      })
    }
  }
  for (const section of elements(root, 'DiskSection')) {
    for (const { attributes } of elements(section, 'Disk')) {
      disks.push({
        id: attributes.get('diskId') ?? '',
        fileRef: attributes.get('fileRef'),
        capacity: capacityOf(attributes.get('capacity'), attributes.get('capacityAllocationUnits')),
        format: attributes.get('format'),
        parentRef: attributes.get('parentRef'),
      })
    }
  }
  return { files, disks }
}

/** Units are `byte`, or `byte * 2^30` and the like (DSP0004). */
function capacityOf(value: string | undefined, units = 'byte'): number | undefined {
  const unit = /^\s*byte\s*(?:\*\s*(2|10)\s*\^\s*(\d{1,2}))?\s*$/.exec(units)
  if (value === undefined || unit === null || !/^\d{1,16}$/.test(value.trim())) {
    return undefined
  }
  const bytes = Number(value) * (unit[1] === undefined ? 1 : Number(unit[1]) ** Number(unit[2]))
  return Number.isSafeInteger(bytes) ? bytes : undefined
}

export interface NewOvf {
  /** Of the machine. */
  readonly name: string
  readonly processors: number
  /** Bytes. */
  readonly memory: number
  readonly disks: readonly {
    /** Name in the package. */
    readonly file: string
    /** Of the file. */
    readonly bytes: number
    /** Of the disk. */
    readonly capacity: number
  }[]
}

const streamFormat = 'http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized'

function escaped(value: string): string {
  return value.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`)
}

/** An OVF 1.1 descriptor of a machine with stream-optimized disks on one SCSI controller. */
export function makeOvf({ name, processors, memory, disks }: NewOvf): string {
  const item = (id: number, type: number, element: string, more: string): string =>
    `      <Item>
        <rasd:ElementName>${escaped(element)}</rasd:ElementName>
${more}        <rasd:InstanceID>${id}</rasd:InstanceID>
        <rasd:ResourceType>${type}</rasd:ResourceType>
      </Item>
`
  return `<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData">
  <References>
${disks.map(({ file, bytes }, i) => `    <File ovf:id="file${i + 1}" ovf:href="${escaped(file)}" ovf:size="${bytes}"/>\n`).join('')}  </References>
  <DiskSection>
    <Info>Virtual disks</Info>
${disks.map(({ capacity }, i) => `    <Disk ovf:diskId="disk${i + 1}" ovf:fileRef="file${i + 1}" ovf:capacity="${capacity}" ovf:capacityAllocationUnits="byte" ovf:format="${streamFormat}"/>\n`).join('')}  </DiskSection>
  <VirtualSystem ovf:id="${escaped(name)}">
    <Info>A virtual machine</Info>
    <Name>${escaped(name)}</Name>
    <OperatingSystemSection ovf:id="1">
      <Info>The kind of guest operating system</Info>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>Virtual hardware</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>${escaped(name)}</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-07</vssd:VirtualSystemType>
      </System>
${item(1, 3, `${processors} virtual CPU(s)`, `        <rasd:VirtualQuantity>${processors}</rasd:VirtualQuantity>\n`)}${item(2, 4, `${memory / 2 ** 20} MB of memory`, `        <rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits>\n        <rasd:VirtualQuantity>${Math.round(memory / 2 ** 20)}</rasd:VirtualQuantity>\n`)}${item(3, 6, 'SCSI controller 0', '        <rasd:Address>0</rasd:Address>\n        <rasd:ResourceSubType>lsilogic</rasd:ResourceSubType>\n')}${disks
  .map((_, i) =>
    item(
      10 + i,
      17,
      `Hard disk ${i + 1}`,
      `        <rasd:AddressOnParent>${i}</rasd:AddressOnParent>\n        <rasd:HostResource>ovf:/disk/disk${i + 1}</rasd:HostResource>\n        <rasd:Parent>3</rasd:Parent>\n`,
    ),
  )
  .join('')}    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
`
}
