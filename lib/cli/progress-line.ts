import type { Progress } from '../model.js'
import { formatBytes, formatSeconds } from './output.js'

/** Seconds of a step before anything is shown of it but its name. */
export const quiet = 1

/** What a step says of itself at any time; times in ms. */
export class ProgressLine {
  readonly #begin: number
  #stage: (Progress & { begin: number; reported: number }) | undefined

  constructor(now: number) {
    this.#begin = now
  }

  report(progress: Progress, now: number): void {
    const begin = this.#stage?.stage === progress.stage ? this.#stage.begin : now
    this.#stage = { ...progress, begin, reported: now }
  }

  /** Seconds since the step began. */
  elapsed(now: number): number {
    return (now - this.#begin) / 1000
  }

  /** Stage, how far it is, and the seconds left by its pace so far, or gone by where that says nothing yet. */
  text(now: number): string | undefined {
    if (this.elapsed(now) < quiet) return undefined
    if (this.#stage === undefined) return `${formatSeconds(this.elapsed(now))} so far`
    const { stage, begin, done, total, unit, reported } = this.#stage
    const [reached, all] = unit === 'bytes' ? [formatBytes(done), formatBytes(total)] : [done, total]
    const head = `${stage} ${reached}/${all}`
    if (done >= total) return head
    if (done === 0) return `${head}, ${formatSeconds((now - begin) / 1000)} so far`
    const left = ((reported - begin) / done) * (total - done) - (now - reported)
    return `${head}, ${formatSeconds(Math.max(0, left) / 1000)} left`
  }
}
