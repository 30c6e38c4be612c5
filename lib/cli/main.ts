#!/usr/bin/env node
import { Command, CommanderError } from 'commander'
import { packageDescription, packageVersion, toFlrcError } from '../binding.js'
import { FlrcError } from '../errors.js'
import { registerBench } from './bench.js'
import { registerCalibrateSchedule } from './calibrate-schedule.js'
import { registerCompress } from './compress.js'
import { registerDemo } from './demo.js'
import { registerEval } from './eval.js'
import { registerExport } from './export.js'
import { registerGenerate } from './generate.js'
import { registerInspect } from './inspect.js'
import { note, printJson } from './output.js'
import { registerReport } from './report.js'

const exitCodes = { done: 0, failed: 1, usage: 2, interrupted: 130, terminated: 143 } as const

/** How long an interrupted command may take to remove what it has half written. */
const cleanUpMs = 5000

const interrupt = new AbortController()

async function main(args: string[]): Promise<number> {
  let interruptCode: number = exitCodes.interrupted
  const onSignal = (signal: NodeJS.Signals) => {
    interruptCode = signal === 'SIGTERM' ? exitCodes.terminated : exitCodes.interrupted
    if (interrupt.signal.aborted) process.exit(interruptCode)
    interrupt.abort()
    setTimeout(() => process.exit(interruptCode), cleanUpMs).unref()
  }
  process.on('SIGINT', onSignal)
  process.on('SIGTERM', onSignal)
  // A reader such as `head` that has seen enough is no failure.
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      process.exit(error.code === 'EPIPE' ? exitCodes.done : exitCodes.failed)
    })
  }
  try {
    await program().parseAsync(args)
    return interrupt.signal.aborted ? interruptCode : exitCodes.done
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return exitCodes.done
    const failure = error instanceof CommanderError ? usageError(error) : toFlrcError(error)
    note(`flrc: ${failure.code}: ${describe(failure)}`)
    if (args.includes('--json')) {
      const { code, message, file, tensor } = failure
      await printJson({ error: { code, message, file: file ?? null, tensor: tensor ?? null } })
    }
    if (interrupt.signal.aborted) return interruptCode
    return failure.code === 'E_USAGE' ? exitCodes.usage : exitCodes.failed
  }
}

function program(): Command {
  const root = new Command('flrc')
    .description(packageDescription)
    .version(packageVersion)
    .exitOverride()
    // Usage errors are printed in the one place that prints all errors.
    .configureOutput({ outputError: () => undefined })
    .showSuggestionAfterError()
  for (const register of [
    registerDemo,
    registerCompress,
    registerGenerate,
    registerEval,
    registerCalibrateSchedule,
    registerInspect,
    registerBench,
    registerExport,
    registerReport,
  ]) {
    register(root, interrupt.signal)
  }
  return root
}

function usageError(error: CommanderError): FlrcError {
  const message = error.message.replace(/^error: /, '').replaceAll('\n', ' ')
  const text = error.code === 'commander.help' ? 'no command given' : message
  return new FlrcError('E_USAGE', `${text}; see flrc --help`)
}

function describe({ message, file, tensor }: FlrcError): string {
  const named = [file, tensor].filter((part) => part !== undefined && !message.includes(part))
  return named.length > 0 ? `${message} (${named.join(', ')})` : message
}

process.exit(await main(process.argv))
