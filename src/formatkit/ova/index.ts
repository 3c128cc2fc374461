/** OVA packages: tar archives with an OVF descriptor, disks and a manifest. */
export { makeOvf, type NewOvf } from './ovf.js'
export { chooseDisk, type OvaPackage, type PackagedDisk, readOva } from './package.js'
export { type TarMember, tarHeader, tarUnit } from './tar.js'
