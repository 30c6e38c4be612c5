import { Listr, ListrLogger, ProcessOutput } from 'listr2'
import { formatSeconds } from './output.js'
import { type ProgressLine, quiet } from './progress-line.js'

/** Milliseconds between two progress lines, after the first, where the terminal cannot redraw one. */
const plainInterval = 5000
/** Long stages report seldom: between their reports the seconds go on. */
const redrawInterval = 250
const leastColumns = 20

/**
 * Whether a line can be drawn again in its place. A terminal that says it has no columns (as of `docker run -t` at
 * times) would get a line for each letter.
 */
export function redraws(
  { isTTY, columns }: Pick<NodeJS.WriteStream, 'isTTY' | 'columns'>,
  type?: string,
): boolean {
  return isTTY && columns >= leastColumns && type !== 'dumb'
}

/** Shows on stderr a step that runs already, until it ends, well or not. */
export async function showStep(title: string, line: ProgressLine, running: Promise<unknown>): Promise<void> {
  const terminal = redraws(process.stderr, process.env.TERM)
  const tasks = new Listr(
    [
      {
        title,
        task: async (_context, task) => {
          const show = () => {
            const text = line.text(performance.now())
            if (text !== undefined) task.output = text
          }
          const timer = setInterval(show, terminal ? redrawInterval : plainInterval)
          const first = setTimeout(show, quiet * 1000)
          try {
            // The error itself is printed when the command ends.
            await running.catch(() => Promise.reject(new Error('see below')))
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
  await tasks.run().catch(() => undefined)
}
