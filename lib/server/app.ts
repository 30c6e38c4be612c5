import { type Context, Hono } from 'hono'
import type { ContentfulStatusCode } from 'hono/utils/http-status'
import { toFlrcError } from '../binding.js'
import { answer, type RequestRecord } from './answer.js'
import { readJson } from './body.js'
import type { Engine } from './engine.js'
import { failedAnswer, RequestFailure } from './failure.js'
import { type AnswerForm, chatForm, completionForm } from './forms.js'
import { checkHost, checkKey, type Guarded } from './guard.js'
import { servedModel } from './models.js'
import { readChatRequest, readCompletionRequest, type Wanted } from './requests.js'

export interface AppOptions extends Guarded {
  /** What the model is called. */
  name: string
  /** How long a reader may take nothing before it is cut off. */
  stallMs: number
}

/** What comes with a request besides itself. */
export interface RequestContext {
  /** Where the server listens, by its address. */
  url: string
  record: RequestRecord
  /** Whether who asks takes an answer in chunks, as clients do since HTTP/1.1. */
  chunked: boolean
  /** Ends the connection. */
  cut: () => void
}

type Env = { Bindings: RequestContext }

/** Bytes that a body may have: what a context full of long words takes, escaped, and no less than this. */
const bytesPerToken = 32
const leastBody = 2 ** 20

/** The routes, as a function from requests to answers. */
export function serverApp(engine: Engine, options: AppOptions): Hono<Env> {
  const app = new Hono<Env>()
  app.use(async (c, next) => {
    checkHost(options, c.env.url, c.req.header('host'))
    await next()
  })
  app.get('/health', (c) => c.json({ status: 'ok' }))
  app.use('/v1/*', async (c, next) => {
    checkKey(options, c.req.header('authorization'))
    await next()
  })
  const { name, stallMs } = options
  const model = servedModel(engine, name)
  app.get('/v1/models', (c) => c.json({ object: 'list', data: [model] }))
  app.get('/v1/models/:name{.+}', (c) => {
    if (c.req.param('name') === name) return c.json(model)
    throw new RequestFailure(404, 'not_found', `the model served is ${name}`)
  })
  const mostBytes = Math.max(leastBody, bytesPerToken * engine.model.config.contextLength)
  const endpoint = (path: string, form: AnswerForm, read: (body: unknown) => Wanted) =>
    app.post(path, async (c) => {
      const wanted = read(await readJson(c.req.raw, mostBytes))
      const { signal } = c.req.raw
      return answer(engine, { wanted, form, name, stallMs, signal, ...c.env })
    })
  endpoint('/v1/chat/completions', chatForm, readChatRequest)
  endpoint('/v1/completions', completionForm, readCompletionRequest)
  const failed = (c: Context<Env>, error: unknown) => {
    const { status, body, headers } = failedAnswer(error, name)
    // A body that breaks off with its connection is nobody's fault.
    if (status === 500 && !c.req.raw.signal.aborted) c.env.record.error = toFlrcError(error)
    return c.json(body, status as ContentfulStatusCode, { ...headers })
  }
  app.notFound((c) =>
    failed(c, new RequestFailure(404, 'not_found', `there is no ${c.req.method} ${c.req.path} here`)),
  )
  app.onError((error, c) => failed(c, error))
  return app
}
