import { once } from 'node:events'
import { type Command, Option } from 'commander'
import { counted } from '../counted.js'
import { parseSchedule } from '../schedule.js'
import { checkKey, type ServedRequest, serve } from '../serve.js'
import { isLoopback } from '../server/guard.js'
import { loadModel, noteUnusedSchedule } from './load.js'
import {
  addCommonOptions,
  addScheduleOptions,
  type CommonOptions,
  modelForms,
  parseBytes,
  type ScheduleOptions,
  wholeNumber,
} from './options.js'
import { note, print, printJson } from './output.js'

interface ServeFlags extends CommonOptions, ScheduleOptions {
  host: string
  port: number
  parallel: number
  cache: number
  apiKey?: string
}

export function registerServe(program: Command, signal: AbortSignal): void {
  const command = program
    .command('serve')
    .description("answer over HTTP as OpenAI's API does, until it is interrupted")
    .argument('<model>', modelForms)
    .option('--host <address>', 'address to listen on; 0.0.0.0 is all of them', '127.0.0.1')
    .option('--port <n>', 'port to listen on; 0 is any that is free', wholeNumber(0, 65535), 8080)
    .option('--parallel <n>', 'requests that are answered at once; others wait', wholeNumber(1), 4)
    .addOption(
      new Option(
        '--cache <size>',
        'memory for caches of ended requests, for prompts that begin alike; 0 is none',
      )
        .argParser((text) => (text === '0' ? 0 : parseBytes(text)))
        .default(2 ** 30, '1GB'),
    )
    .addOption(new Option('--api-key <key>', 'key that requests must bring').env('FLRC_API_KEY'))
  addCommonOptions(addScheduleOptions(command)).action(async (path: string, flags: ServeFlags) => {
    const { json, host, port, parallel, cache: cacheBytes, apiKey, schedule } = flags
    parseSchedule(schedule)
    checkKey('--api-key or FLRC_API_KEY', apiKey)
    const model = await loadModel(path, flags, signal)
    noteUnusedSchedule(schedule, model)
    const onRequest = (request: ServedRequest) => note(describe(request))
    const server = await serve(model, { host, port, parallel, cacheBytes, apiKey, schedule, onRequest })
    try {
      const { url, model: name } = server
      if (!isLoopback(url) && apiKey === undefined)
        note('note: whoever reaches this machine may use the model; --api-key lets only those who know it')
      if (json) await printJson({ url, model: name })
      else await print(`${name} at ${url}/v1\n`)
      if (!signal.aborted) await once(signal, 'abort')
    } finally {
      await server.close()
    }
  })
}

/** A request as one line, with no word of what was said. */
function describe({
  method,
  path,
  status,
  promptTokens,
  completionTokens,
  seconds,
  error,
}: ServedRequest): string {
  const tokens = promptTokens > 0 ? `, ${promptTokens} + ${counted(completionTokens, 'token')}` : ''
  const failure = error ? `, ${error.code}: ${error.message}` : ''
  return `${method} ${path} ${status}${tokens}, ${seconds.toFixed(3)} s${failure}`
}
