import { Worker } from 'node:worker_threads'
import type { RenderReply, RenderRequest, WorkerMessage } from './chat-template-worker.js'
import { abortedError, FlrcError } from './errors.js'

/*
 * Templates come from strangers and are programs. Each is rendered in a worker thread: its end can be forced
 * whatever it does (a vm timeout could stop it too, but not keep it from filling the process's own heap, and
 * it would block the event loop until then). A worker's heap limit alone does not do: one oversized
 * allocation in a worker ends the whole process, so the worker bounds every step itself and the heap limit
 * lies far above, never to be reached. A thread per rendering costs some 40 ms and leaves nothing behind.
 */
const timeLimitMs = 5_000
/** Characters of a template's text. */
export const templateLimit = 1_000_000
/** Characters of a rendered chat, or of any string made on the way. */
const maxCharacters = 4_000_000
const maxItems = 50_000
const maxSplitCharacters = 200_000
const maxHeapBytes = 384_000_000
const heapLimitMb = 2048

export interface ChatMessage {
  role: string
  /** Text, or whatever parts the template understands. */
  content: unknown
  [field: string]: unknown
}

export interface RenderOptions {
  /** End with the opening of the assistant's turn. Default true. */
  addGenerationPrompt?: boolean
  bosToken?: string
  eosToken?: string
  tools?: readonly unknown[]
  /** More variables for the template. */
  variables?: Record<string, unknown>
  signal?: AbortSignal
  /** Default 5000. */
  timeLimitMs?: number
  /** Names the template's origin in errors. */
  file?: string
}

function refusal(file: string, problem: string, cause?: unknown): FlrcError {
  const detail = cause === undefined ? { file } : { file, cause }
  return new FlrcError(
    'E_CHAT_TEMPLATE',
    `${file}: the chat template ${problem}; use the original model's template, or write the prompt yourself`,
    detail,
  )
}

function requestOf(
  template: string,
  chats: readonly (readonly ChatMessage[])[],
  options: RenderOptions,
): RenderRequest {
  const { addGenerationPrompt = true, bosToken = '', eosToken = '', tools, variables } = options
  return {
    template,
    // transformers passes these two even when there are none, and templates compare them with none.
    variables: {
      tools: tools ?? null,
      documents: null,
      ...variables,
      add_generation_prompt: addGenerationPrompt,
      bos_token: bosToken,
      eos_token: eosToken,
    },
    chats,
    maxCharacters,
    maxItems,
    maxSplitCharacters,
    maxHeapBytes,
  }
}

/**
 * Renders a chat with its template, as transformers' apply_chat_template does, but for the form of some values: lists and
 * dictionaries are put out as JSON, not in Python's quotes, `tojson` writes 1.0 as 1, numbers from 1e16 on are put out in
 * digits, and lists are joined with true, false and none in JavaScript's words. Throws E_CHAT_TEMPLATE for a template that is
 * too large, wrong, refuses the messages, or goes beyond its time or memory; E_ABORTED.
 */
export async function renderChat(
  template: string,
  messages: readonly ChatMessage[],
  options: RenderOptions = {},
): Promise<string> {
  const [text = ''] = await renderChats(template, [messages], options)
  return text
}

/** Renders several chats, each as `renderChat` does, within one chat's limits of time and memory. */
export async function renderChats(
  template: string,
  chats: readonly (readonly ChatMessage[])[],
  options: RenderOptions = {},
): Promise<string[]> {
  const { signal, file = 'chat template' } = options
  if (signal?.aborted) throw abortedError()
  if (template.length > templateLimit) {
    throw refusal(file, `is ${template.length} characters long, more than the ${templateLimit} allowed`)
  }
  const limit = options.timeLimitMs ?? timeLimitMs
  const worker = startWorker(requestOf(template, chats, options), file)
  let timer: NodeJS.Timeout | undefined
  let abort = () => {}
  try {
    const reply = await new Promise<RenderReply>((resolve, reject) => {
      // A machine that has other things to do takes its time to start a thread, which is no fault of the template.
      const begin = () => {
        timer = setTimeout(() => reject(refusal(file, `did not end within ${limit} ms`)), limit)
      }
      abort = () => reject(abortedError())
      signal?.addEventListener('abort', abort, { once: true })
      worker.on('message', (message: WorkerMessage) => (message === 'ready' ? begin() : resolve(message)))
      worker.once('error', (error) => reject(refusal(file, `failed (${error.message})`, error)))
      worker.once('exit', () => reject(refusal(file, 'ended its thread')))
    })
    if ('error' in reply) throw refusal(file, `failed (${reply.error})`)
    return reply.texts
  } finally {
    clearTimeout(timer)
    // A thread that starts after all, once its rendering was given up, must not start the clock.
    worker.removeAllListeners('message')
    signal?.removeEventListener('abort', abort)
    // Not awaited: a thread in the midst of a step need not hold up the answer. Nor may it hold up exit.
    worker.unref()
    void worker.terminate()
  }
}

function startWorker(request: RenderRequest, file: string): Worker {
  try {
    return new Worker(new URL('./chat-template-worker.js', import.meta.url), {
      workerData: request,
      // The thread's console must not mix with the result on stdout.
      stdout: true,
      stderr: true,
      env: {},
      resourceLimits: { maxOldGenerationSizeMb: heapLimitMb },
    })
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw new FlrcError('E_USAGE', `the messages cannot be given to ${file} (${reason}); pass plain data`, {
      file,
      cause: error,
    })
  }
}
