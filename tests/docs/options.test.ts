import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { allDrivers } from '../../src/all-drivers.js'
import { genericOptions } from '../../src/graph/index.js'
import { driverOptionDocs } from '../../src/options/index.js'

const path = fileURLToPath(new URL('../../docs/options.md', import.meta.url))

test('docs/options.md is what the option schemas say (npm run option-docs)', () => {
  const docs = driverOptionDocs(allDrivers, genericOptions)
  if (process.env.BLOCKGRAPH_WRITE_DOCS !== undefined) {
    writeFileSync(path, docs)
  }
  expect(readFileSync(path, 'utf8')).toBe(docs)
  for (const driver of allDrivers) {
    expect(docs).toContain(`## ${driver.name} (${driver.kind})`)
  }
  expect(docs).toContain('| `cluster_size` | size |')
})
