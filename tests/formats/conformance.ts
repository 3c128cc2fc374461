import { describe, expect, test } from 'vitest'
import { contentsTests } from './contents.js'
import { crashTests, growCrashTests } from './crash.js'
import { damageTests } from './damage.js'
import { faultTests, growFaultTests } from './faults.js'
import {
  type FormatUnderTest,
  imagePath,
  layerOn,
  makeImage,
  memoryHost,
  openOptions,
} from './format-under-test.js'
import { readAll } from './guest.js'

/** What every format driver must do, whatever its layout. One call for each variant of a format. */
export function formatConformance(under: FormatUnderTest): void {
  describe(under.title ?? under.format, () => {
    if (under.built !== undefined) {
      const { built } = under
      test('reads what the image holds', async () => {
        const host = memoryHost()
        await makeImage(host, under)
        const layer = layerOn(host)
        const node = await layer.open(imagePath, openOptions(under))
        expect(node.length).toBe(built.length)
        expect(Buffer.compare(await readAll(node), built)).toBe(0)
        await layer.unref(node)
      })
    }
    if (under.writable !== false) {
      contentsTests(under)
      faultTests(under)
      crashTests(under)
      const { grownSize } = under
      if (grownSize !== undefined) {
        growCrashTests({ ...under, grownSize })
        growFaultTests({ ...under, grownSize })
      }
    }
    damageTests(under)
  })
}
