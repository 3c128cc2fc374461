import { vi } from 'vitest'

// The same tests on a system without compression libraries: Node's own, and those of packages.
vi.mock('./native-codecs.js', () => ({ fastInflate: () => undefined, fastZstd: () => undefined }))

await import('./codecs.test.js')
