import { FlrcError } from '../errors.js'
import type { LoadedModel, TaskOptions } from '../model.js'
import type { NativeDocumentForm } from '../native-types.js'
import { renderWithTemplate } from './dialogues.js'
import type { UsedSource } from './sources.js'

/**
 * The model's own distribution, less the unlikely twentieth of each step: small models drift into noise with it,
 * and then calibrate on that.
 */
const sampling = { temperature: 1, topP: 0.95 }

/** Stand for what is said where the template is taken apart; no template has such words of its own. */
const userMark = 'flrc-message-of-the-user'
const answerMark = 'flrc-message-of-the-assistant'

export interface SelfTextOptions extends TaskOptions {
  windows: number
  /** Windows to write beyond those, to be held out. */
  spare: number
  /** Tokens in a window. */
  seqLen: number
  seed: number
  /** Bytes that KV caches may take. */
  memory: number
}

/**
 * Windows that the model writes itself, sampled: every first one plain text, every second one conversations in
 * its chat template, where it has one (all plain where it has none). Plain documents begin with the begin token
 * where the tokenizer adds one to texts, and otherwise with a token drawn from the whole vocabulary, as in LLM-QAT
 * (arXiv 2305.17888); of a conversation the model writes the user's message after the template's opening, as in
 * Magpie (arXiv 2406.08464), and then the answer. A special token ends a document or message; the next document
 * of the window begins from an empty context, so that no repetition outlives its document. The same model and seed
 * give the same windows at any number of threads. Errors: E_CALIBRATION, E_CHAT_TEMPLATE, E_NUMERIC, E_ABORTED.
 */
export async function writeSelfWindows(
  model: LoadedModel,
  { windows, spare, seqLen, seed, memory, signal, onProgress }: SelfTextOptions,
): Promise<{ windows: Int32Array[]; heldOut: Int32Array[]; sampling: UsedSource['sampling'] }> {
  if (windows === 0) {
    return { windows: [], heldOut: [], sampling: { seed, ...sampling, plainWindows: 0, chatWindows: 0 } }
  }
  const chat =
    model.source.tokenizer().chatTemplate === undefined ? undefined : await chatForm(model, seqLen, signal)
  const plain = plainForm(model, seqLen)
  const forms = chat ? [plain, chat] : [plain]
  const ends = Int32Array.from(endTokens(model))
  const text = await model.writeSelfText(
    { forms, ends, windows: windows + spare, length: seqLen, seed, ...sampling, memory },
    { signal, onProgress },
  )
  const chatWindows = chat ? Math.floor(windows / 2) : 0
  const all = Array.from({ length: windows + spare }, (_, index) =>
    text.slice(index * seqLen, (index + 1) * seqLen),
  )
  return {
    windows: all.slice(0, windows),
    heldOut: all.slice(windows),
    sampling: { seed, ...sampling, plainWindows: windows - chatWindows, chatWindows },
  }
}

/** Plain text holds no special token and a message none but its end, so any of them is one. */
function endTokens({ tokenizer, config }: LoadedModel): Set<number> {
  const all = [...tokenizer.specialTokenIds, ...tokenizer.eosTokenIds]
  return new Set(all.filter((token) => token < config.vocabSize))
}

function plainForm(model: LoadedModel, longest: number): NativeDocumentForm {
  const { tokenizer, config } = model
  const { addsBos, bosTokenId } = tokenizer
  if (addsBos && bosTokenId !== undefined) {
    return { starts: Int32Array.of(), turns: [Int32Array.of(bosTokenId)], ending: Int32Array.of(), longest }
  }
  const ends = endTokens(model)
  const ids = Array.from({ length: Math.min(config.vocabSize, tokenizer.vocabSize) }, (_, id) => id)
  const starts = Int32Array.from(ids.filter((id) => tokenizer.tokenOf(id) !== undefined && !ends.has(id)))
  return { starts, turns: [Int32Array.of()], ending: Int32Array.of(), longest }
}

/**
 * The template taken apart: what stands before the user's message, between it and the answer, and after that. The
 * message ends at half of a window: small models know answers better than where a user would stop, and every window
 * is to show an answer.
 */
async function chatForm(
  model: LoadedModel,
  seqLen: number,
  signal: AbortSignal | undefined,
): Promise<NativeDocumentForm> {
  const chat = [
    { role: 'user', content: userMark },
    { role: 'assistant', content: answerMark },
  ]
  const [text = ''] = await renderWithTemplate(model, [chat], signal)
  const [opening = '', rest = '', ...more] = text.split(userMark)
  const [between = '', ending = '', ...others] = rest.split(answerMark)
  const { path } = model.source
  if (more.length + others.length > 0 || rest === '' || opening === '' || between === '') {
    throw new FlrcError(
      'E_CALIBRATION',
      `${path}: its chat template does not show a message once as it is, so the model cannot write chats in it; ` +
        'give calibration texts instead',
      { file: path },
    )
  }
  const encode = (part: string) => model.tokenizer.encode(part, { addSpecial: false })
  return {
    starts: Int32Array.of(),
    turns: [encode(opening), encode(between)],
    ending: encode(ending),
    longest: Math.ceil(seqLen / 2),
  }
}
