import { randomInt } from 'node:crypto'
import * as v from 'valibot'
import type { ChatMessage } from '../chat-template.js'
import { isObject, issueText } from '../format/files.js'
import { mostTopLogprobs } from '../generate/options.js'
import type { GenerateOptions } from '../generate.js'
import { RequestFailure } from './failure.js'

/** What a request asks for, with the server's defaults filled in. */
export interface Wanted {
  prompt: { messages: ChatMessage[] } | { text: string | number[] }
  /** Tokens at most; the rest of the context where undefined. */
  maxTokens: number | undefined
  sampling: Required<Omit<GenerateOptions, 'maxTokens' | 'schedule' | 'speculate' | 'signal'>>
  schedule: string | undefined
  /** Whether a cache of earlier requests may be gone on with. */
  reuse: boolean
  logprobs: boolean
  stream: boolean
  includeUsage: boolean
}

/** Of llama-server, which those who run a model of their own know. */
const usual = { temperature: 0.8, topK: 40, topP: 0.95, minP: 0.05 }

const mostStops = 4
const topLogprobsWanted = `must be a whole number from 0 to ${mostTopLogprobs}`
const seeds = 2 ** 32

const whole = (from: number) => {
  const wanted = `must be a whole number from ${from}`
  return v.pipe(v.number(wanted), v.safeInteger(wanted), v.minValue(from, wanted))
}

const numberIn = (from: number, to: number, range: string) => {
  const wanted = `must be a number ${range}`
  return v.pipe(v.number(wanted), v.minValue(from, wanted), v.maxValue(to, wanted))
}

const flag = v.nullish(v.boolean('must be true or false'), false)

/** What clients send whatever they are talking to, and no answer depends on. */
const ignored = v.optional(v.unknown())

/** What is refused unless it says what the server does anyway. */
const only = (...allowed: unknown[]) => {
  const same = (value: unknown) => allowed.some((one) => JSON.stringify(one) === JSON.stringify(value))
  const list = allowed.map((one) => JSON.stringify(one)).join(' or ')
  const message = list === '' ? 'is not supported; leave it out' : `only ${list} is supported`
  return v.optional(
    v.pipe(
      v.unknown(),
      v.check((value) => value === null || same(value), message),
    ),
  )
}

const stopWanted = `must be a text, or a list of up to ${mostStops}, none empty`
const stopText = v.pipe(v.string(), v.nonEmpty(stopWanted))

const common = {
  max_tokens: v.nullish(whole(-1)),
  temperature: v.nullish(numberIn(0, Number.MAX_VALUE, 'from 0'), usual.temperature),
  top_p: v.nullish(numberIn(0, 1, 'from 0 to 1'), usual.topP),
  top_k: v.nullish(whole(0), usual.topK),
  min_p: v.nullish(numberIn(0, 1, 'from 0 to 1'), usual.minP),
  repeat_penalty: v.nullish(numberIn(0.1, 10, 'from 0.1 to 10'), 1),
  frequency_penalty: v.nullish(numberIn(-2, 2, 'from -2 to 2'), 0),
  presence_penalty: v.nullish(numberIn(-2, 2, 'from -2 to 2'), 0),
  seed: v.nullish(whole(-1), -1),
  stop: v.nullish(
    v.union([stopText, v.pipe(v.array(stopText), v.maxLength(mostStops, stopWanted))], stopWanted),
    [],
  ),
  stream: flag,
  stream_options: v.nullish(v.strictObject({ include_usage: flag, include_obfuscation: ignored })),
  schedule: v.nullish(v.string('must be a text, such as linear:.9:.7:64')),
  cache_prompt: v.nullish(v.boolean('must be true or false'), true),
  n: only(1),
  logit_bias: only({}),
  model: ignored,
  user: ignored,
  metadata: ignored,
  store: ignored,
  service_tier: ignored,
  safety_identifier: ignored,
  prompt_cache_key: ignored,
  prompt_cache_retention: ignored,
}

const topLogprobs = v.pipe(
  v.number(topLogprobsWanted),
  v.safeInteger(topLogprobsWanted),
  v.minValue(0, topLogprobsWanted),
  v.maxValue(mostTopLogprobs, topLogprobsWanted),
)

const textPart = v.strictObject({
  type: v.literal('text', 'only parts of type "text" are supported'),
  text: v.string('must be a text'),
})
const textParts = v.pipe(
  v.array(textPart),
  v.minLength(1, 'must hold a part'),
  v.transform((parts) => parts.map(({ text }) => text).join('\n')),
)
const plainText = v.string('must be a text, or a list of parts of type "text"')

const message = v.strictObject({
  role: v.picklist(
    ['system', 'developer', 'user', 'assistant'],
    'must be system, developer, user or assistant; tools are not supported',
  ),
  content: v.lazy((content) => (Array.isArray(content) ? textParts : plainText)),
  name: v.nullish(v.string('must be a text')),
  // What the official client's messages have, which are handed back as they came.
  refusal: only(),
  parsed: only(),
  annotations: only([]),
  audio: only(),
  tool_calls: only([]),
  function_call: only(),
})

const chatRequest = v.strictObject({
  ...common,
  messages: v.pipe(v.array(message, 'must be a list of messages'), v.minLength(1, 'must hold a message')),
  max_completion_tokens: v.nullish(whole(-1)),
  logprobs: flag,
  top_logprobs: v.nullish(topLogprobs),
  tools: only([]),
  tool_choice: only('none', 'auto'),
  parallel_tool_calls: ignored,
  functions: only([]),
  function_call: only('none', 'auto'),
  response_format: only({ type: 'text' }),
  modalities: only(['text']),
  audio: only(),
  prediction: only(),
  reasoning_effort: only(),
  verbosity: only(),
  web_search_options: only(),
})

const promptWanted = 'must be one text, or the token ids of one'
const onePrompt = v.union([v.string(), v.pipe(v.array(whole(0)), v.nonEmpty(promptWanted))], promptWanted)
const listOfOne = v.pipe(
  v.strictTuple([onePrompt]),
  v.transform(([prompt]) => prompt),
)

const completionRequest = v.strictObject({
  ...common,
  prompt: v.union([onePrompt, listOfOne], promptWanted),
  logprobs: v.nullish(topLogprobs),
  best_of: only(1),
  echo: only(false),
  suffix: only(''),
})

/** @throws a RequestFailure that names the first field at fault */
export function readChatRequest(body: unknown): Wanted {
  const request = parse(chatRequest, body)
  const messages = request.messages.map(({ role, content, name }) => ({
    // The name that newer models have for it, which templates do not know.
    role: role === 'developer' ? 'system' : role,
    content,
    ...(typeof name === 'string' ? { name } : {}),
  }))
  const maxTokens = request.max_completion_tokens ?? request.max_tokens
  const { logprobs, top_logprobs: top } = request
  if (top && !logprobs) throw refusal('top_logprobs', 'goes only with logprobs: true')
  return { ...wanted(request, top), prompt: { messages }, maxTokens: limit(maxTokens), logprobs }
}

/** @throws a RequestFailure that names the first field at fault */
export function readCompletionRequest(body: unknown): Wanted {
  const request = parse(completionRequest, body)
  return {
    ...wanted(request, request.logprobs),
    prompt: { text: request.prompt },
    maxTokens: limit(request.max_tokens),
    logprobs: typeof request.logprobs === 'number',
  }
}

type Common = v.InferOutput<ReturnType<typeof v.strictObject<typeof common, undefined>>>

function wanted(
  request: Common,
  topLogprobs: number | null | undefined,
): Omit<Wanted, 'prompt' | 'maxTokens' | 'logprobs'> {
  const { temperature, top_k: topK, min_p: minP, seed, stop, stream } = request
  if (request.stream_options && !stream) throw refusal('stream_options', 'goes only with stream: true')
  return {
    sampling: {
      temperature,
      topK,
      // 0 leaves the likeliest token, as the least number above it does.
      topP: Math.max(Number.MIN_VALUE, request.top_p),
      minP,
      repeatPenalty: request.repeat_penalty,
      frequencyPenalty: request.frequency_penalty,
      presencePenalty: request.presence_penalty,
      seed: seed < 0 ? randomInt(seeds) : seed,
      topLogprobs: topLogprobs ?? 0,
      stop,
    },
    schedule: request.schedule ?? undefined,
    reuse: request.cache_prompt,
    stream,
    includeUsage: request.stream_options?.include_usage ?? false,
  }
}

/** -1 is no limit, as llama-server has it. */
function limit(maxTokens: number | null | undefined): number | undefined {
  return maxTokens === -1 ? undefined : (maxTokens ?? undefined)
}

function parse<Schema extends v.GenericSchema>(schema: Schema, body: unknown): v.InferOutput<Schema> {
  if (!isObject(body)) throw new RequestFailure(400, 'E_USAGE', 'the body must be a JSON object')
  const result = v.safeParse(schema, body, { abortEarly: true })
  if (result.success) return result.output
  const [issue] = result.issues
  const param = v.getDotPath(issue) ?? undefined
  if (param !== undefined && issue.expected === 'never') throw refusal(param, 'is not known here; leave it out')
  throw new RequestFailure(400, 'E_USAGE', issueText([issue]), { param })
}

function refusal(param: string, problem: string): RequestFailure {
  return new RequestFailure(400, 'E_USAGE', `${param}: ${problem}`, { param })
}
