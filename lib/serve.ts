import { checkObject, checkText, checkWhole, refuse } from './check.js'
import type { FlrcError } from './errors.js'
import { checkModel, type LoadedModel } from './model.js'
import type { ScheduleChoice } from './schedule.js'

/** A request that was answered, or whose client left. */
export interface ServedRequest {
  method: string
  path: string
  /** Of HTTP; 499 where the client left before the answer was whole. */
  status: number
  promptTokens: number
  completionTokens: number
  seconds: number
  /** What failed, where the request is not to blame. */
  error?: FlrcError
}

export interface ServeOptions {
  /** Address to listen on; 127.0.0.1 by default, which only this machine reaches. */
  host?: string
  /** 8080 by default; 0 takes any that is free. */
  port?: number
  /** Requests that are answered at once, through one read of the weights; 4 by default. */
  parallel?: number
  /** Requests that may wait for their turn, beyond which they are told to come back later (503); 64 by default. */
  queue?: number
  /**
   * Bytes that the caches of requests that have ended may take, for those that begin as they did, such as the next turn
   * of a chat; 2^30 by default, 0 keeps none.
   */
  cacheBytes?: number
  /** What requests must bring as `Authorization: Bearer KEY`, in visible ASCII characters; none by default. */
  apiKey?: string
  /** Of requests that name none; level 0 throughout by default. */
  schedule?: ScheduleChoice
  /** Hears of every request when it is done. */
  onRequest?: (request: ServedRequest) => void
}

/** A model that is served. */
export interface ModelServer {
  /** Where it listens, such as `http://127.0.0.1:8080`. OpenAI's clients want `/v1` after it. */
  url: string
  /** What the model is called there. */
  model: string
  /** Listens no more, ends what is being generated, and resolves when all connections are closed. */
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/**
 * Serves a model over HTTP as OpenAI's API does: `/v1/chat/completions`, `/v1/completions`, `/v1/models` and `/health`.
 * The model stays the caller's: dispose of it after closing. Errors: E_USAGE for an unusable option, E_IO where the
 * address cannot be listened on, E_DISPOSED.
 */
export async function serve(model: LoadedModel, options: ServeOptions = {}): Promise<ModelServer> {
  checkObject('the second argument', options, 'options, such as { port: 8080 }')
  const { host = '127.0.0.1', port = 8080, parallel = 4, queue = 64, cacheBytes = 2 ** 30 } = options
  const { apiKey, schedule, onRequest } = options
  checkModel(model)
  model.assertUsable()
  checkText('host', host, 'an address of this machine')
  // Node would listen on all of them.
  if (host === '') refuse('host', 'empty', 'an address of this machine; 0.0.0.0 is all of them')
  checkWhole('port', port, 0)
  if (port > 65535) refuse('port', port, 'a whole number from 0 to 65535')
  checkWhole('parallel', parallel, 1)
  checkWhole('queue', queue, 0)
  checkWhole('cacheBytes', cacheBytes, 0)
  checkKey('apiKey', apiKey)
  if (onRequest !== undefined && typeof onRequest !== 'function') refuse('onRequest', onRequest, 'a function')
  // Only who serves pays for the server.
  const { startServer } = await import('./server/start.js')
  return startServer(model, { host, port, parallel, queue, cacheBytes, apiKey, schedule, onRequest })
}

/** E_USAGE for a key that no client can send; `name` is where it came from. The key itself is no matter for a message. */
export function checkKey(name: string, key: unknown): void {
  if (key === undefined) return
  if (typeof key !== 'string') refuse(name, typeof key, 'a text')
  if (key === '') refuse(name, 'empty', 'a key; leave it out, or unset, for none')
  if (!/^[\x21-\x7e]+$/.test(key))
    refuse(name, 'no key that a client can send', 'visible ASCII characters, with no space or line end')
}
