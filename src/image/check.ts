import { fixedText } from '../bytes/index.js'
import { blockError, codeOf, strerror } from '../errors/index.js'
import {
  type Backend,
  type CheckFailure,
  type CheckFix,
  type CheckResult,
  checkNode,
} from '../graph/index.js'
import { inQemuOrder } from './key-order.js'
import { throwIfAborted } from './long-run.js'

/**
 * QAPI's `ImageCheck`, members in the order in which `qemu-img check --output=json` prints them.
 * What QEMU leaves out is left out. Counts are clusters, the end offset is bytes.
 */
export interface ImageCheck {
  readonly 'image-end-offset'?: number
  readonly 'compressed-clusters'?: number
  readonly 'total-clusters'?: number
  readonly corruptions?: number
  readonly 'corruptions-fixed'?: number
  readonly 'check-errors': number
  readonly leaks?: number
  readonly 'leaks-fixed'?: number
  readonly 'allocated-clusters'?: number
  readonly filename: string
  readonly format: string
  readonly 'fragmented-clusters'?: number
}

export interface CheckImageOptions {
  /** `-r`: what to repair; the image must be open for writing then. */
  readonly fix?: CheckFix | undefined
  /** Name of the image in the result; default: the node's file name. */
  readonly label?: string | undefined
  readonly signal?: AbortSignal | undefined
  /**
   * Called with each line about an inconsistency, in order, once the run that found it is over; also if the
   * run failed. `report`: a line that `qemu-img` prints after its own name.
   */
  readonly message?: ((line: string, report: boolean) => void) | undefined
  /** Called after repairs and before the second check, with what was repaired. */
  readonly onRepaired?: ((leaks: number, corruptions: number) => void) | undefined
}

export interface CheckImageResult {
  readonly check: ImageCheck
  /** Whether something was repaired and the image checked again. */
  readonly repaired: boolean
  /** `qemu-img check`'s exit code: 0 clean, 1 internal errors, 2 corruptions, 3 leaks only. */
  readonly exitCode: 0 | 1 | 2 | 3
  /** Lines about inconsistencies, of both runs. */
  readonly messages: readonly string[]
}

const noFix: CheckFix = { leaks: false, errors: false }

/**
 * Checks an image and repairs it if asked to; after repairs it is checked again and the result is
 * that of the second run, with the numbers of repairs of the first.
 *
 * @throws BlockError `ENOTSUP` `This image format does not support checks` (exit code 63),
 *   `Check failed: …`, or the driver's own text.
 */
export async function checkImage(image: Backend, options: CheckImageOptions = {}): Promise<CheckImageResult> {
  const { node } = image
  const messages: string[] = []
  const tell = (result: CheckResult): void => {
    const reports = new Set(result.reports)
    result.messages.forEach((line, index) => {
      messages.push(line)
      options.message?.(line, reports.has(index))
    })
  }
  const run = async (fix: CheckFix): Promise<CheckResult> => {
    throwIfAborted(options.signal)
    let result: CheckResult
    try {
      result = await checkNode(node, fix, options.signal)
    } catch (error) {
      const failure = error instanceof Error ? (error.cause as Partial<CheckFailure> | undefined) : undefined
      if (failure?.partial !== undefined) {
        tell(failure.partial)
      }
      return failed(error)
    }
    tell(result)
    return result
  }
  let result = await run(options.fix ?? noFix)
  const { leaksFixed, corruptionsFixed } = result
  const repaired = leaksFixed > 0 || corruptionsFixed > 0
  if (repaired) {
    options.onRepaired?.(leaksFixed, corruptionsFixed)
    result = { ...(await run(noFix)), leaksFixed, corruptionsFixed }
  }
  const check = imageCheck(result, options.label ?? node.filename, node.driver?.name ?? '')
  return { check, repaired, exitCode: exitCodeOf(result), messages }
}

/** A check that could not be done: a bare errno gets QEMU's text. */
function failed(error: unknown): never {
  const code = codeOf(error)
  if (code === 'ENOTSUP' && error instanceof Error && error.message === strerror(code)) {
    // Drivers that check but do not repair say so.
    throw blockError(code, 'This image format does not support checks', { cause: error })
  }
  if (code !== 'ECANCELED' && error instanceof Error && error.message === strerror(code)) {
    throw blockError(code, `Check failed: ${error.message}`, { cause: error })
  }
  throw error
}

function exitCodeOf(result: CheckResult): 0 | 1 | 2 | 3 {
  if (result.checkErrors > 0) {
    return 1
  }
  return result.corruptions > 0 ? 2 : result.leaks > 0 ? 3 : 0
}

function imageCheck(result: CheckResult, filename: string, format: string): ImageCheck {
  const counted = (key: keyof ImageCheck, count: number): Partial<ImageCheck> =>
    count === 0 ? {} : { [key]: count }
  return inQemuOrder<ImageCheck>({
    filename,
    format,
    'check-errors': result.checkErrors,
    ...counted('image-end-offset', result.imageEndOffset),
    ...counted('corruptions', result.corruptions),
    ...counted('leaks', result.leaks),
    ...counted('corruptions-fixed', result.corruptionsFixed),
    ...counted('leaks-fixed', result.leaksFixed),
    ...counted('total-clusters', result.totalClusters),
    ...counted('allocated-clusters', result.allocatedClusters),
    ...counted('fragmented-clusters', result.fragmentedClusters),
    ...counted('compressed-clusters', result.compressedClusters),
  })
}

/** The report of a check as `qemu-img check` prints it on standard output, by lines. */
export function checkReport(check: ImageCheck): string[] {
  const lines: string[] = []
  const { corruptions = 0, leaks = 0, 'check-errors': errors } = check
  if (corruptions === 0 && leaks === 0 && errors === 0) {
    lines.push('No errors were found on the image.')
  }
  if (corruptions > 0) {
    lines.push(
      '',
      `${corruptions} errors were found on the image.`,
      'Data may be corrupted, or further writes to the image may corrupt it.',
    )
  }
  if (leaks > 0) {
    lines.push(
      '',
      `${leaks} leaked clusters were found on the image.`,
      'This means waste of disk space, but no harm to data.',
    )
  }
  if (errors > 0) {
    lines.push('', `${errors} internal errors have occurred during the check.`)
  }
  const { 'total-clusters': total = 0, 'allocated-clusters': allocated = 0 } = check
  if (total > 0 && allocated > 0) {
    const percent = (part: number, whole: number): string => `${fixedText((part * 100) / whole, 2)}%`
    lines.push(
      `${allocated}/${total} = ${percent(allocated, total)} allocated, ` +
        `${percent(check['fragmented-clusters'] ?? 0, allocated)} fragmented, ` +
        `${percent(check['compressed-clusters'] ?? 0, allocated)} compressed clusters`,
    )
  }
  const end = check['image-end-offset'] ?? 0
  if (end > 0) {
    lines.push(`Image end offset: ${end}`)
  }
  return lines
}
