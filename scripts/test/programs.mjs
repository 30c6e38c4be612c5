import { spawn } from 'node:child_process'
import { root } from '../setup/log.mjs'
import { countsOf, skipReasons } from './counts.mjs'

const outputLimit = 4 * 1024 * 1024

/**
 * Runs one test program to its end or its limit and judges it.
 * Resolves to `{ passed, failed, skipped, seconds, reasons, output, problem }`; `problem` says in words what
 * is wrong, and is undefined when all is well.
 */
export async function runProgram({ command, args, env = {}, limit }) {
  const started = performance.now()
  const { output, code, signal, timedOut } = await outputOf(command, args, env, limit)
  const counts = countsOf(output)
  const problem = problemOf({ counts, code, signal, timedOut, limit })
  const { passed, failed, skipped } = counts ?? { passed: 0, failed: 0, skipped: 0 }
  return {
    passed,
    failed: problem === undefined ? failed : Math.max(1, failed),
    skipped,
    seconds: (performance.now() - started) / 1000,
    reasons: skipReasons(output),
    output,
    problem,
  }
}

function problemOf({ counts, code, signal, timedOut, limit }) {
  if (timedOut) return `not done after ${limit} s`
  if (signal) return `ended by ${signal}`
  if (counts?.failed > 0) return `${counts.failed} failed`
  if (code !== 0) return `exit status ${code}`
  if (counts === undefined) return 'gave no count of its tests'
  if (counts.passed + counts.skipped === 0) return 'has no tests'
  return undefined
}

function outputOf(command, args, env, limit) {
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd: root,
      // Nothing is downloaded by mistake: tests of downloading have a server of their own.
      env: { ...process.env, FORCE_COLOR: '0', NO_COLOR: '1', HF_HUB_OFFLINE: '1', ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
      // A process group of its own, so that the limit also ends what the test started.
      detached: true,
    })
    const pieces = []
    let length = 0
    const keep = (piece) => {
      pieces.push(piece)
      length += piece.length
      while (length > outputLimit && pieces.length > 1) length -= pieces.shift().length
    }
    child.stdout.on('data', keep)
    child.stderr.on('data', keep)
    let timedOut = false
    const endGroup = () => {
      try {
        process.kill(-child.pid, 'SIGKILL')
      } catch {
        // Nothing of the group is left.
      }
    }
    const timer = setTimeout(() => {
      timedOut = true
      endGroup()
    }, limit * 1000)
    const interrupted = () => {
      endGroup()
      process.exit(130)
    }
    process.once('SIGINT', interrupted)
    process.once('SIGTERM', interrupted)
    const finish = (code, signal) => {
      clearTimeout(timer)
      process.off('SIGINT', interrupted)
      process.off('SIGTERM', interrupted)
      resolve({ output: Buffer.concat(pieces).toString(), code, signal, timedOut })
    }
    child.on('error', (error) => {
      keep(Buffer.from(`${error.message}\n`))
      finish(127, null)
    })
    // A left-over grandchild may hold the pipes open: what was started ends with its starter.
    child.on('exit', endGroup)
    child.on('close', finish)
  })
}
