import { Listr, ListrLogger, ProcessOutput } from 'listr2'
import type { Progress } from '../model.js'
import { formatBytes, formatSeconds } from './output.js'

/** Milliseconds between two progress lines, after the first, where the terminal cannot redraw one. */
const plainInterval = 5000
/** Seconds of a step before anything is shown of it. */
const quiet = 1
/** Long stages report seldom: between their reports the seconds go on. */
const redrawInterval = 250

/**
 * Runs one step of a command and shows on stderr what runs, how far it is and how long it will still take.
 * Steps that end within a second show nothing but their name.
 */
export async function step<T>(
  title: string,
  work: (onProgress: (progress: Progress) => void) => Promise<T>,
): Promise<T> {
  let result: { value: T } | undefined
  const terminal = process.stderr.isTTY
  const tasks = new Listr(
    [
      {
        title,
        task: async (_context, task) => {
          const line = new ProgressLine(performance.now())
          const show = () => {
            const text = line.text(performance.now())
            if (text !== undefined) task.output = text
          }
          const timer = setInterval(show, terminal ? redrawInterval : plainInterval)
          const first = setTimeout(show, quiet * 1000)
          try {
            result = { value: await work((progress) => line.report(progress, performance.now())) }
            if (terminal) task.title = `${title} (${formatSeconds(line.elapsed(performance.now()))})`
          } finally {
            clearTimeout(first)
            clearInterval(timer)
          }
        },
      },
    ],
    {
      renderer: terminal ? 'default' : 'simple',
      registerSignalListeners: false,
      rendererOptions: {
        logger: new ListrLogger({ processOutput: new ProcessOutput(process.stderr, process.stderr) }),
      },
    },
  )
  await tasks.run()
  return (result as { value: T }).value
}

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
