import type { LoadedModel } from '../model.js'
import type { ModelServer, ServeOptions } from '../serve.js'
import { serverApp } from './app.js'
import { Engine } from './engine.js'
import { listen } from './listen.js'
import { nameOf } from './models.js'

export type StartOptions = Required<Omit<ServeOptions, 'apiKey' | 'schedule' | 'onRequest'>> &
  Pick<ServeOptions, 'apiKey' | 'schedule' | 'onRequest'>

/** How long a reader may take nothing before it is cut off. */
const stallMs = 30_000

/** What `serve` does with its options checked. */
export async function startServer(model: LoadedModel, options: StartOptions): Promise<ModelServer> {
  const { host, port, parallel, queue, cacheBytes, apiKey, schedule, onRequest } = options
  const name = nameOf(model)
  const engine = new Engine(model, { parallel, queue, cacheBytes, schedule })
  const app = serverApp(engine, { host, apiKey, name, stallMs })
  const listening = await listen({ host, port, fetch: app.fetch, onRequest })
  const close = async () => {
    await Promise.all([listening.close(), engine.close()])
  }
  return { url: listening.url, model: name, close, [Symbol.asyncDispose]: close }
}
