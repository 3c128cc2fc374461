/** OVA packages as a whole: make, list, verify. Disks in them are opened by the driver `ova`. */
export { type CreateOvaOptions, type CreateOvaResult, createOva } from './create.js'
export { listOva, type OvaContents, type OvaDisk, type VerifiedFile, verifyOva } from './inspect.js'
