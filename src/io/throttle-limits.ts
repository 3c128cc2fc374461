import { blockError } from '../errors/index.js'

/** What is limited, each on its own; the words are QEMU's. */
export const throttleBuckets = [
  'bps-total',
  'bps-read',
  'bps-write',
  'iops-total',
  'iops-read',
  'iops-write',
] as const

export type ThrottleBucketName = (typeof throttleBuckets)[number]

/** Largest rate, bytes or requests per second. */
const maxRate = 1e15
/** Longest burst, seconds. */
export const maxBurstLength = 0xffffffff

export interface BucketLimit {
  /** Units (bytes or requests) per second in the long run; 0 means no limit. */
  readonly average: number
  /** Units per second in a burst; 0: a tenth of a second's worth may go at once. */
  readonly max: number
  /** How long a burst may last, seconds. */
  readonly burstLength: number
}

export interface ThrottleLimits {
  readonly buckets: Readonly<Record<ThrottleBucketName, BucketLimit>>
  /** Larger requests count as several, bytes; 0: each request counts once. */
  readonly iopsSize: number
}

/** Members of QAPI's `ThrottleLimits` by name: `bps-total`, `bps-total-max`, `bps-total-max-length`, …, `iops-size`. */
export type ThrottleValues = Readonly<Record<string, number>>

/** Every name that {@link ThrottleValues} may have, in QAPI's order. */
export const throttleValueNames: readonly string[] = [
  ...(['iops', 'bps'] as const).flatMap((unit) =>
    (['total', 'read', 'write'] as const).flatMap((direction) => [
      `${unit}-${direction}`,
      `${unit}-${direction}-max`,
      `${unit}-${direction}-max-length`,
    ]),
  ),
  'iops-size',
]

/**
 * Limits from single values; what is not given is unlimited.
 *
 * @throws BlockError EINVAL with QEMU's text if they make no sense together
 */
export function throttleLimits(values: ThrottleValues): ThrottleLimits {
  const bucket = (name: ThrottleBucketName): BucketLimit => ({
    average: values[name] ?? 0,
    max: values[`${name}-max`] ?? 0,
    burstLength: values[`${name}-max-length`] ?? 1,
  })
  const limits: ThrottleLimits = {
    buckets: {
      'bps-total': bucket('bps-total'),
      'bps-read': bucket('bps-read'),
      'bps-write': bucket('bps-write'),
      'iops-total': bucket('iops-total'),
      'iops-read': bucket('iops-read'),
      'iops-write': bucket('iops-write'),
    },
    iopsSize: values['iops-size'] ?? 0,
  }
  check(limits)
  return limits
}

/** Whether anything is limited. */
export function isThrottled({ buckets }: ThrottleLimits): boolean {
  return throttleBuckets.some((name) => buckets[name].average > 0)
}

function invalid(text: string): Error {
  return blockError('EINVAL', text)
}

function check({ buckets, iopsSize }: ThrottleLimits): void {
  for (const unit of ['bps', 'iops'] as const) {
    const total = buckets[`${unit}-total`]
    const read = buckets[`${unit}-read`]
    const write = buckets[`${unit}-write`]
    const clash = (value: 'average' | 'max'): boolean =>
      total[value] !== 0 && (read[value] !== 0 || write[value] !== 0)
    if (clash('average') || clash('max')) {
      throw invalid('bps/iops/max total values and read/write values cannot be used at the same time')
    }
  }
  const counted = (['iops-total', 'iops-read', 'iops-write'] as const).some(
    (name) => buckets[name].average !== 0,
  )
  if (iopsSize !== 0 && !counted) {
    throw invalid('iops size requires an iops value to be set')
  }
  for (const name of throttleBuckets) {
    checkBucket(buckets[name])
  }
}

function checkBucket({ average, max, burstLength }: BucketLimit): void {
  if (!(average >= 0 && average <= maxRate && max >= 0 && max <= maxRate)) {
    throw invalid(`bps/iops/max values must be within [0, ${maxRate}]`)
  }
  if (burstLength === 0) {
    throw invalid('the burst length cannot be 0')
  }
  if (burstLength > 1 && max === 0) {
    throw invalid('burst length set without burst rate')
  }
  if (max !== 0 && burstLength > Math.floor(maxRate / max)) {
    throw invalid('burst length too high for this burst rate')
  }
  if (max !== 0 && average === 0) {
    throw invalid('bps_max/iops_max require corresponding bps/iops values')
  }
  if (max !== 0 && max < average) {
    throw invalid('bps_max/iops_max cannot be lower than bps/iops')
  }
}
