import { type ChildProcess, spawn } from 'node:child_process'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

/** The package's folder, seen from build/ts/test/support. */
export const root = fileURLToPath(new URL('../../../..', import.meta.url))
export const tinyModel = path.join(root, 'models', 'tiny')

export const cli = path.join(root, 'dist', 'cli', 'main.js')

export interface Ended {
  code: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
  seconds: number
}

export interface ChildOptions {
  /** Killed (and a failure of the test) beyond this. */
  seconds?: number
  nodeArgs?: string[]
  cwd?: string
  env?: NodeJS.ProcessEnv
  /** What its stdin holds; nothing where undefined. */
  input?: string
  /** Called once the child runs, to signal it or to close its streams. */
  onStart?: (child: ChildProcess) => void
}

/** Runs node and waits for its end. */
export function runNode(args: readonly string[], options: ChildOptions = {}): Promise<Ended> {
  const { seconds = 60, nodeArgs = [], cwd = root, env = process.env, input, onStart } = options
  const begin = performance.now()
  const stdin = input === undefined ? 'ignore' : 'pipe'
  const child = spawn(process.execPath, [...nodeArgs, ...args], { cwd, env, stdio: [stdin, 'pipe', 'pipe'] })
  child.stdin?.end(input)
  const output = { stdout: '', stderr: '' }
  child.stdout?.on('data', (data) => {
    output.stdout += data
  })
  child.stderr?.on('data', (data) => {
    output.stderr += data
  })
  const timer = setTimeout(() => child.kill('SIGKILL'), seconds * 1000)
  onStart?.(child)
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      resolve({ code, signal, ...output, seconds: (performance.now() - begin) / 1000 })
    })
  })
}

/** Runs a module given as text, with the package's own imports (`#lib/...`). */
export function runModule(source: string, options: ChildOptions = {}): Promise<Ended> {
  return runNode(['--input-type=module', '-e', source], options)
}

/** Runs the command-line program. */
export function runCli(args: readonly string[], options: ChildOptions = {}): Promise<Ended> {
  return runNode([cli, ...args], options)
}
