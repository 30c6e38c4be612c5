import { setTimeout } from 'node:timers/promises'
import type { Progress } from '../model.js'
import { ProgressLine } from './progress-line.js'

/** Milliseconds within which a step ends unseen: what shows it takes a third of them to load. */
const unseen = 150

/** Runs one step of a command and shows on stderr what runs, how far it is and how long it will still take. */
export async function step<T>(
  title: string,
  work: (onProgress: (progress: Progress) => void) => Promise<T>,
): Promise<T> {
  const line = new ProgressLine(performance.now())
  const running = work((progress) => line.report(progress, performance.now()))
  const ended = new AbortController()
  const end = () => ended.abort()
  running.then(end, end)
  const over = await setTimeout(unseen, false, { signal: ended.signal }).catch(() => true)
  if (!over) {
    const { showStep } = await import('./shown-step.js')
    await showStep(title, line, running)
  }
  return running
}

/** Seconds since `begin`, a time of `performance.now()`. */
export function elapsed(begin: number): number {
  return (performance.now() - begin) / 1000
}
