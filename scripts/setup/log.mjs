import { spawn } from 'node:child_process'
import { createWriteStream, mkdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = fileURLToPath(new URL('../..', import.meta.url))

// npm says the cause first, compilers last.
const headLines = 8
const tailLines = 40

/** A step of the set-up that failed: what it was, its log, and how to repeat it by hand. */
export class StepError extends Error {
  constructor(title, detail, remedy) {
    super(`${title} failed`)
    this.title = title
    this.detail = detail
    this.remedy = remedy
  }

  /** The whole failure as a person should read it. */
  explain() {
    return [`${this.title} failed`, this.detail, this.remedy].filter(Boolean).join('\n')
  }
}

/** Progress goes to stderr: stdout belongs to the command that is set up. */
export function say(line) {
  process.stderr.write(`[setup] ${line}\n`)
}

/**
 * Runs one command with its output in build/logs/NAME.log, and says how long it took.
 * Throws a StepError with the log's beginning and end when it fails.
 */
export async function runStep(title, command, args, { name, env = {}, quiet = false }) {
  const folder = path.join(root, 'build', 'logs')
  mkdirSync(folder, { recursive: true })
  const file = path.join(folder, `${name}.log`)
  if (!quiet) say(`${title} ...`)
  const started = performance.now()
  const status = await spawnTo(createWriteStream(file), command, args, env)
  if (status !== 0) {
    const lines = readFileSync(file, 'utf8').trimEnd().split('\n')
    const left = lines.length - headLines - tailLines
    const shown = left > 0 ? [...lines.slice(0, headLines), '...', ...lines.slice(-tailLines)] : lines
    const assignments = Object.entries(env).map(([key, value]) => `${key}=${shellWord(value)}`)
    const repeat = [...assignments, ...[command, ...args].map(shellWord)].join(' ')
    throw new StepError(
      title,
      shown.join('\n'),
      `whole log: ${path.relative(root, file)}; to repeat it: ${repeat}`,
    )
  }
  if (!quiet) say(`${title}: ${((performance.now() - started) / 1000).toFixed(1)} s`)
}

function spawnTo(log, command, args, env) {
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd: root,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    child.stdout.pipe(log, { end: false })
    child.stderr.pipe(log, { end: false })
    const finish = (status) => log.end(() => resolve(status))
    child.on('error', (error) => {
      log.write(`${error.message}\n`)
      finish(127)
    })
    child.on('close', (code, signal) => {
      if (signal) log.write(`ended by ${signal}\n`)
      finish(code ?? 1)
    })
  })
}

function shellWord(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`
}

/**
 * Runs a program in this one's place: same standard streams, and its exit status. Ctrl-C reaches the child
 * by itself, which then decides how to end.
 */
export function handOver(command, args) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd: process.cwd(), stdio: 'inherit' })
    const wait = () => {}
    const pass = () => child.kill('SIGTERM')
    process.on('SIGINT', wait)
    process.on('SIGTERM', pass)
    child.on('error', (error) => {
      process.stderr.write(`${error.message}\n`)
      resolve(1)
    })
    child.on('close', (code, signal) => {
      process.off('SIGINT', wait)
      process.off('SIGTERM', pass)
      resolve(code ?? (signal === 'SIGINT' ? 130 : 1))
    })
  })
}
