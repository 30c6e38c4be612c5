import { Listr, ListrLogger, ProcessOutput } from 'listr2'
import type { Progress } from '../model.js'
import { formatSeconds } from './output.js'

/** Milliseconds between two progress lines where the terminal cannot redraw one. */
const plainInterval = 5000
const redrawInterval = 100

/**
 * Runs one step of a command and shows on stderr what runs, how far it is and how long it will still take.
 * Steps that end within a second show nothing but their name.
 */
export async function step<T>(
  title: string,
  work: (onProgress: (progress: Progress) => void) => Promise<T>,
): Promise<T> {
  let result: { value: T } | undefined
  const interval = process.stderr.isTTY ? redrawInterval : plainInterval
  const tasks = new Listr(
    [
      {
        title,
        task: async (_context, task) => {
          const describe = progressText(interval)
          result = {
            value: await work((progress) => {
              const text = describe(progress, performance.now())
              if (text !== undefined) task.output = text
            }),
          }
        },
      },
    ],
    {
      renderer: process.stderr.isTTY ? 'default' : 'simple',
      registerSignalListeners: false,
      rendererOptions: {
        logger: new ListrLogger({ processOutput: new ProcessOutput(process.stderr, process.stderr) }),
      },
    },
  )
  await tasks.run()
  return (result as { value: T }).value
}

/** Turns progress reports into lines, at most one per `interval` ms and none in the first second. */
export function progressText(interval: number): (progress: Progress, now: number) => string | undefined {
  const begin = performance.now()
  let stage = ''
  let stageBegin = begin
  let shown = begin + 1000 - interval
  return ({ stage: next, done, total }, now) => {
    if (next !== stage) {
      stage = next
      stageBegin = now
    }
    if (now - shown < interval) return undefined
    shown = now
    const spent = (now - stageBegin) / 1000
    const left = done > 0 && done < total ? `, ${formatSeconds((spent / done) * (total - done))} left` : ''
    return `${stage} ${done}/${total}${left}`
  }
}
