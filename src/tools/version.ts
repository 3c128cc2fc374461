/** This package's version; a test keeps it equal to package.json's. */
export const packageVersion = '0.1.0'

/** The release of QEMU whose command lines and texts the tools reproduce. */
export const qemuVersion = '7.2.22'
