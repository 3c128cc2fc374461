import { fixedText, sizeText } from '../bytes/index.js'
import type { ToolContext } from './context.js'

/** How progress is shown: not at all, as QEMU does or as a bar on a terminal, or one JSON object a line. */
export type ProgressStyle = 'none' | 'people' | 'json'

export interface ProgressOptions {
  readonly style: ProgressStyle
  /** Percentage points between two lines in QEMU's format. */
  readonly step: number
  /** Standard output is taken by image data; JSON goes to standard error then. */
  readonly stdoutTaken?: boolean
  /** Work at its very beginning is shown each time it is reported. */
  readonly restarts?: boolean
}

/** Milliseconds between two updates of the bar or two JSON lines. */
const interval = 100

/** Shows how far a long operation is, and answers SIGUSR1 when it is not shown anyway. */
export class ProgressMeter {
  readonly #context: ToolContext
  readonly #options: ProgressOptions
  readonly #start = Date.now()
  readonly #forget: () => void
  #percent = 0
  #shownPercent = Number.NaN
  #shownAt = Number.NEGATIVE_INFINITY
  #asked = false
  #barLength = 0

  constructor(context: ToolContext, options: ProgressOptions) {
    this.#context = context
    this.#options = options
    this.#forget =
      options.style === 'none'
        ? context.onProgressRequest(() => {
            this.#asked = true
          })
        : () => undefined
  }

  /** Reports work done, bytes. */
  readonly update = (done: number, total: number): void => {
    const percent = total > 0 ? Math.min(100, (done * 100) / total) : 100
    this.#percent = percent
    if (this.#asked) {
      this.#asked = false
      this.#context.stderr(`${percentText(percent)}\n`)
    }
    switch (this.#options.style) {
      case 'none':
        return
      case 'json':
        this.#json(done, total, percent)
        return
      case 'people':
        if (this.#context.terminal === undefined) {
          // Of nothing QEMU shows no parts.
          if (total > 0) {
            this.#qemu(percent)
          }
        } else {
          this.#bar(done, total, percent, this.#context.terminal.columns)
        }
    }
  }

  /** Shows that the work begins, of which it is not known yet how much it is. */
  start(): void {
    this.#edge(0)
  }

  /** Shows that all is done. */
  finish(): void {
    this.#edge(100)
  }

  #edge(percent: number): void {
    this.#percent = percent
    if (this.#options.style === 'people' && this.#context.terminal === undefined) {
      this.#line(percent)
    }
  }

  /** Ends the line, whether or not the work succeeded. Call it once. */
  end(): void {
    this.#forget()
    if (this.#options.style === 'people') {
      this.#context.stdout('\n')
    }
  }

  #due(percent: number): boolean {
    const now = Date.now()
    if (now - this.#shownAt < interval && percent !== 100) {
      return false
    }
    this.#shownAt = now
    return true
  }

  /** As `qemu-img -p` prints it: at the ends, and after every step. */
  #qemu(percent: number): void {
    const atEnd = percent === 0 || percent === 100
    const moved = Math.abs(percent - this.#shownPercent) > this.#options.step
    // The beginning of a part is shown even if that of the whole has been.
    const restart = percent === 0 && this.#options.restarts === true
    if (restart || (percent !== this.#shownPercent && (atEnd || moved || Number.isNaN(this.#shownPercent)))) {
      this.#line(percent)
    }
  }

  #line(percent: number): void {
    this.#context.stdout(`${percentText(percent)}\r`)
    this.#shownPercent = percent
  }

  #speed(done: number): number {
    const seconds = (Date.now() - this.#start) / 1000
    return seconds > 0 ? done / seconds : 0
  }

  #json(done: number, total: number, percent: number): void {
    if (percent === this.#shownPercent || !this.#due(percent)) {
      return
    }
    this.#shownPercent = percent
    const speed = this.#speed(done)
    const line = JSON.stringify({
      done,
      total,
      percent: Math.round(percent * 100) / 100,
      'bytes-per-second': Math.round(speed),
      ...(speed > 0 ? { 'seconds-left': Math.round((total - done) / speed) } : {}),
    })
    const write = this.#options.stdoutTaken === true ? this.#context.stderr : this.#context.stdout
    write.call(this.#context, `${line}\n`)
  }

  #bar(done: number, total: number, percent: number, columns: number): void {
    if (!this.#due(percent)) {
      return
    }
    const speed = this.#speed(done)
    const left = speed > 0 && percent < 100 ? ` ETA ${timeText((total - done) / speed)}` : ''
    const text = ` ${percent.toFixed(1).padStart(5)}% ${sizeText(done)}/${sizeText(total)} ${sizeText(Math.round(speed))}/s${left}`
    const width = Math.min(40, columns - text.length - 3)
    const filled = Math.round((width * percent) / 100)
    const bar = width < 5 ? '' : `[${'#'.repeat(filled)}${'-'.repeat(width - filled)}]`
    const line = (bar + text).slice(0, Math.max(1, columns - 1))
    // What a longer line before left over is blanked.
    this.#context.stdout(`\r${line.padEnd(this.#barLength)}`)
    this.#barLength = line.length
  }

  /** Percent, as last reported. */
  get percent(): number {
    return this.#percent
  }
}

function percentText(percent: number): string {
  // QEMU keeps it in single precision.
  return `    (${fixedText(Math.fround(percent), 2)}/100%)`
}

/** `m:ss`, or `h:mm:ss`. */
function timeText(seconds: number): string {
  const whole = Math.ceil(seconds)
  const two = (value: number) => String(value).padStart(2, '0')
  const hours = Math.floor(whole / 3600)
  const minutes = Math.floor(whole / 60) % 60
  return hours > 0 ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`
}
