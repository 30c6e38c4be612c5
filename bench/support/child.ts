import { spawn } from 'node:child_process'

/** What a program prints, once it has ended well; its errors are shown. `name` says what failed where it does. */
export function outputOf(program: string, args: readonly string[], name: string): Promise<string> {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  let output = ''
  child.stdout.on('data', (data) => {
    output += data
  })
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) =>
      code === 0 ? resolve(output) : reject(new Error(`${name} ended with ${signal ?? code}`)),
    )
  })
}

export interface Program {
  /** Says what failed where it does. */
  name: string
  command: string
  args: string[]
}

/** Milliseconds from the start of a program, in a folder or in this one, to the first byte of its output. */
export function untilOutput({ name, command, args }: Program, cwd?: string): Promise<number> {
  const begin = performance.now()
  const child = spawn(command, args, { cwd, stdio: ['ignore', 'pipe', 'pipe'] })
  let first: number | undefined
  let errors = ''
  child.stdout.on('data', () => {
    first ??= performance.now() - begin
  })
  child.stderr.on('data', (data) => {
    errors += data
  })
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code) => {
      if (code === 0 && first !== undefined) resolve(first)
      else reject(new Error(`${name}: exit status ${code}\n${errors}`))
    })
  })
}
