#!/usr/bin/env node
import { Command, CommanderError, Help } from 'commander'
import { packageDescription, packageVersion, toFlrcError } from '../binding.js'
import { FlrcError } from '../errors.js'
import { note, print, printJson } from './output.js'

/** What registers each command. Only the one that is called is loaded, which takes half the time of loading all. */
const commands = {
  demo: async () => (await import('./demo.js')).registerDemo,
  calibrate: async () => (await import('./calibrate.js')).registerCalibrate,
  compress: async () => (await import('./compress.js')).registerCompress,
  generate: async () => (await import('./generate.js')).registerGenerate,
  chat: async () => (await import('./chat.js')).registerChat,
  serve: async () => (await import('./serve.js')).registerServe,
  eval: async () => (await import('./eval.js')).registerEval,
  'calibrate-schedule': async () => (await import('./calibrate-schedule.js')).registerCalibrateSchedule,
  inspect: async () => (await import('./inspect.js')).registerInspect,
  bench: async () => (await import('./bench.js')).registerBench,
  export: async () => (await import('./export.js')).registerExport,
  report: async () => (await import('./report.js')).registerReport,
}

const examples = `
Examples:
  flrc demo
  flrc compress model.gguf -o small --keep .9 --levels .9,.8,.7
  flrc generate small -p "The capital of France is" --schedule linear:.9:.7:32
  flrc chat small
  flrc report small -o small.html`

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
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    // A reader such as `head` that has seen enough is no failure.
    if (error.code === 'EPIPE') process.exit(exitCodes.done)
    note(`flrc: E_IO: stdout cannot be written (${error.code}); check the disk`)
    process.exit(exitCodes.failed)
  })
  process.stderr.on('error', (error: NodeJS.ErrnoException) => {
    // What is told beside the result has lost its reader; the result has not.
    if (error.code !== 'EPIPE') process.exit(exitCodes.failed)
  })
  let root: Command | undefined
  try {
    root = await program(args[2])
    checkValues(root, args.slice(2))
    await root.parseAsync(args)
    return interrupt.signal.aborted ? interruptCode : exitCodes.done
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) {
      // Help is written without being waited for.
      await print('')
      return exitCodes.done
    }
    const failure =
      error instanceof CommanderError ? usageError(error, root, args.slice(2)) : toFlrcError(error)
    note(`flrc: ${failure.code}: ${describe(failure)}`)
    if (args.includes('--json')) {
      const { code, message, file, tensor } = failure
      await printJson({ error: { code, message, file: file ?? null, tensor: tensor ?? null } })
    }
    if (interrupt.signal.aborted) return interruptCode
    return failure.code === 'E_USAGE' ? exitCodes.usage : exitCodes.failed
  }
}

/** With the command that `first`, the first argument, names; with all of them where it names none (help, a mistake). */
async function program(first: string | undefined): Promise<Command> {
  const help = new Help()
  const root = new Command('flrc')
    .description(packageDescription)
    .version(packageVersion)
    .exitOverride()
    // Usage errors are printed in the one place that prints all errors.
    .configureOutput({ outputError: () => undefined })
    .showSuggestionAfterError()
    // That a switch is off until it is given goes without saying.
    .configureHelp({
      optionDescription: (option) => help.optionDescription(option).replace(' (default: false)', ''),
    })
    .addHelpText('after', examples)
  if (first === '--version' || first === '-V') return root
  const called = Object.entries(commands).filter(([name]) => name === first)
  for (const [, load] of called.length > 0 ? called : Object.entries(commands)) {
    const register = await load()
    register(root, interrupt.signal)
  }
  return root
}

/** The command that was called, and what it is in: `eval perplexity` and the like are two. */
function calledCommands(root: Command | undefined, words: readonly string[]): Command[] {
  const found = root === undefined ? [] : [root]
  for (const word of words) {
    const next = found.at(-1)?.commands.find((candidate) => candidate.name() === word)
    if (!next) break
    found.push(next)
  }
  return found
}

/**
 * An option takes whatever follows as its value, so that a prompt may begin with a dash. What is just the name of an
 * option is no value but the next option: whoever means it writes `--prompt=--json`.
 */
function checkValues(root: Command, words: readonly string[]): void {
  const command = calledCommands(root, words).at(-1) ?? root
  const options = command.createHelp().visibleOptions(command)
  const named = (word = '') => options.find(({ short, long }) => word === short || word === long)
  for (let i = 0; i < words.length && words[i] !== '--'; i++) {
    const option = named(words[i])
    if (!option?.required) continue
    i++
    if (named(words[i]) === undefined) continue
    command.error(`error: option '${option.flags}' argument missing`, {
      code: 'commander.optionMissingArgument',
    })
  }
}

function errorText({ message }: CommanderError): string {
  return message
    .replace(/^error: /, '')
    .replaceAll('\n', ' ')
    .replace(/\.$/, '')
}

/** What is wrong where a command is missing, or is none of those there; undefined where something else is. */
function withoutCommand(
  { code }: CommanderError,
  called: readonly Command[],
  words: readonly string[],
): string | undefined {
  const [next, afterNext] = words.slice(called.length - 1)
  if (code === 'commander.help') {
    const asked = next === 'help' ? afterNext : undefined
    return asked === undefined ? 'no command given' : `unknown command '${asked}'`
  }
  // An option of every command, and of none of their groups.
  const isGroup = (called.at(-1)?.commands.length ?? 0) > 0
  const isAlone = isGroup && next === '--json' && afterNext === undefined
  return code === 'commander.unknownOption' && isAlone ? 'no command given' : undefined
}

function usageError(error: CommanderError, root: Command | undefined, words: readonly string[]): FlrcError {
  const called = calledCommands(root, words)
  const text = withoutCommand(error, called, words) ?? errorText(error)
  // An option of several values has taken the argument for one of them.
  const greedy = called.at(-1)?.options.find(({ variadic, long }) => variadic && words.includes(long ?? ''))
  const missing = error.code === 'commander.missingArgument' && greedy !== undefined
  const remedy = missing ? `give it before ${greedy.long}, which takes all that follows; ` : ''
  const path = ['flrc', ...called.slice(1).map((command) => command.name())].join(' ')
  return new FlrcError('E_USAGE', `${text}; ${remedy}see ${path} --help`)
}

function describe({ message, file, tensor }: FlrcError): string {
  const named = [file, tensor].filter((part) => part !== undefined && !message.includes(part))
  const whole = named.length > 0 ? `${message} (${named.join(', ')})` : message
  // Names come from files, and a terminal obeys what is in them.
  return whole.replace(/\p{Cc}/gu, (control) => {
    const code = control.codePointAt(0) ?? 0
    return `\\u${code.toString(16).padStart(4, '0')}`
  })
}

process.exit(await main(process.argv))
