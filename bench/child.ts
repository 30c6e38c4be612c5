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
