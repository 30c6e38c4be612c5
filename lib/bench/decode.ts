import { runTask } from '../binding.js'
import { checkWhole } from '../check.js'
import { FlrcError } from '../errors.js'
import { checkContext } from '../generate/options.js'
import { checkSpeculate, type SpeculateOptions, SpeculativeSteps } from '../generate/speculation.js'
import { levelBudget, type ProducedToken, ScheduledSteps } from '../generate/steps.js'
import { cacheBytesPerPosition, type LoadedModel, type TaskOptions } from '../model.js'
import { type Schedule, scheduleOn } from '../schedule.js'
import { meanOf } from '../statistics/mean.js'
import { medianOf } from '../statistics/median.js'

/** Larger than the caches of any processor that decodes on its own. */
const bandwidthBytes = 2 ** 29

const greedy = { temperature: 0, topK: 0, topP: 1, minP: 0, seed: 0, draw: 0 }

/** A model under a schedule, as a row of the benchmark. */
export interface DecodeSubject {
  name: string
  model: LoadedModel
  /** In the command line's words; level 0 throughout where `schedule` is absent. */
  scheduleName: string
  schedule?: Schedule
  /** Decodes at level 0, with drafts; without a schedule. */
  speculate?: SpeculateOptions
}

/** One generation of a fixed length. */
export interface DecodeRun {
  /** Decode steps a second; the first token, which comes from prefill, is not counted. */
  tokensPerSecond: number
  timeToFirstTokenMs: number
  /** Mean over the decode steps of what each read: weights, and keys and values of what came before. */
  bytesPerToken: number
  /** Mean over the decode steps. */
  meanActiveBudget: number
}

export interface DecodeRow {
  name: string
  dtype: string
  schedule: string
  /** Median of the rounds. */
  tokensPerSecond: number
  /** The slowest and the fastest round. */
  spread: [number, number]
  bytesPerToken: number
  /** Tokens a second at which these bytes would take all the bandwidth. */
  ceiling: number
  /** Bytes a second that decoding reads / what the machine was measured to read in the same round; the median. */
  bandwidthShare: number
  meanActiveBudget: number
  /** Median of the rounds. */
  timeToFirstTokenMs: number
}

export interface DecodeBenchOptions extends TaskOptions {
  /** Tokens to decode after the prompt; 128 by default. */
  tokens?: number
  /** Tokens of the prompt; 32 by default. */
  promptTokens?: number
  /** Rounds that count; 5 by default. */
  rounds?: number
  /** What prompts are cut from, another one each round; the same words over and over by default. */
  text?: string
}

export interface DecodeBench {
  machine: {
    /** Bytes a second that all threads together, or the GPU, read from memory; the median of the rounds. */
    bandwidth: number
    /** The slowest and the fastest round. */
    bandwidthSpread: [number, number]
  }
  rows: DecodeRow[]
  tokens: number
  promptTokens: number
  rounds: number
}

/**
 * Decoding speed of models and schedules side by side: every round measures the machine's read bandwidth and each
 * row once, so that what else the machine does meets all of them; a first round warms up and does not count. Every
 * run decodes the same number of tokens, past end tokens too. Errors: E_USAGE for options or schedules that cannot
 * be used, E_CONTEXT where the tokens exceed a context, E_ABORTED, E_OUT_OF_MEMORY.
 */
export async function benchDecode(
  subjects: readonly DecodeSubject[],
  options: DecodeBenchOptions = {},
): Promise<DecodeBench> {
  const { tokens = 128, promptTokens = 32, rounds = 5, text, onProgress } = options
  const { signal = new AbortController().signal } = options
  checkWhole('tokens', tokens, 1)
  checkWhole('promptTokens', promptTokens, 1)
  checkWhole('rounds', rounds, 1)
  const [first] = subjects
  if (first === undefined) throw new FlrcError('E_USAGE', 'there is nothing to measure; give a model')
  const cut = { count: rounds, length: promptTokens, more: tokens }
  const running = subjects.map(({ model, schedule, speculate }) => ({
    ...{ model, speculate, schedule: schedule && scheduleOn(schedule, model) },
    prompts: promptsOf(model, text, cut),
  }))
  const bandwidths: number[] = []
  const runs: DecodeRun[][] = subjects.map(() => [])
  const total = (rounds + 1) * subjects.length
  for (let round = 0; round <= rounds; round++) {
    const bandwidth = await readBandwidth(first.model, signal)
    if (round > 0) bandwidths.push(bandwidth)
    for (const [index, { prompts, ...subject }] of running.entries()) {
      const done = round * subjects.length + index
      onProgress?.({ stage: round === 0 ? 'warm up' : `round ${round}`, done, total })
      const run = await decodeRun(subject, prompts[round % prompts.length] ?? [], tokens, signal)
      if (round > 0) runs[index]?.push(run)
    }
  }
  onProgress?.({ stage: 'done', done: total, total })
  return {
    machine: { bandwidth: medianOf(bandwidths), bandwidthSpread: spreadOf(bandwidths) },
    rows: subjects.map((subject, index) => rowOf(subject, runs[index] ?? [], bandwidths)),
    ...{ tokens, promptTokens, rounds },
  }
}

/** Bytes a second that what computes for a model reads from memory. */
export function readBandwidth({ plugin, threads }: LoadedModel, signal: AbortSignal): Promise<number> {
  return runTask(
    (addon) =>
      plugin === undefined ? addon.readBandwidth(bandwidthBytes, threads) : addon.pluginBandwidth(plugin.file),
    [signal],
  )
}

/** Prefills, at level 0 unless told otherwise, and decodes exactly so many tokens greedily. */
export async function decodeRun(
  { model, schedule, speculate }: Pick<DecodeSubject, 'model' | 'schedule' | 'speculate'>,
  prompt: readonly number[],
  tokens: number,
  signal: AbortSignal,
  promptLevel = 0,
): Promise<DecodeRun> {
  const session = model.createSession()
  const sampling = () => greedy
  const speculation = speculate && checkSpeculate(speculate, model)
  // The first of all tokens comes from prefill.
  const source = speculation
    ? new SpeculativeSteps(model, session, sampling, speculation, tokens + 1)
    : new ScheduledSteps(model, session, sampling, schedule, prompt.length)
  try {
    const begin = performance.now()
    await session.prefill(Int32Array.from(prompt), promptLevel, signal)
    let last: ProducedToken = { ...session.sample(greedy), level: 0, activeBudget: levelBudget(model, 0) }
    const first = performance.now()
    let [made, bytes, budget] = [0, 0, 0]
    while (made < tokens) {
      const before = source.drafted
      const { produced } = await source.advance(last, made + 1, signal)
      last = produced.at(-1) ?? last
      const position = prompt.length + made
      bytes += bytesRead(model, last.level, position)
      bytes += (source.drafted - before) * bytesRead(model, speculation?.level ?? 0, position)
      budget += produced.reduce((sum, { activeBudget }) => sum + activeBudget, 0)
      made += produced.length
    }
    const seconds = (performance.now() - first) / 1000
    return {
      tokensPerSecond: made / seconds,
      timeToFirstTokenMs: first - begin,
      bytesPerToken: bytes / made,
      meanActiveBudget: budget / made,
    }
  } finally {
    session.release()
  }
}

/**
 * Bytes that decoding the token at `position` reads: embedding row, norms, lm_head in full, the level's blocks, and
 * the keys and values of the positions its layers see.
 */
export function bytesRead({ config, dtype, levels }: LoadedModel, level: number, position: number): number {
  const perPosition = cacheBytesPerPosition(config, dtype)
  const seen = config.slidingWindow.map((window) =>
    window > 0 ? Math.min(window, position + 1) : position + 1,
  )
  return (levels[level]?.bytesPerToken ?? 0) + perPosition * seen.reduce((sum, count) => sum + count, 0)
}

/**
 * Prompts of so many tokens: windows of the text at even distances, or some words over and over. E_CONTEXT where they
 * and `more` tokens exceed the model's context, E_USAGE for too short a text.
 */
function promptsOf(
  model: LoadedModel,
  text: string | undefined,
  { count, length, more }: { count: number; length: number; more: number },
): number[][] {
  checkContext(model, length, more)
  if (text === undefined) {
    const words = Array.from(model.tokenizer.encode('The people of the town met every day at the market.'))
    return [Array.from({ length }, (_, index) => words[index % words.length] ?? 0)]
  }
  const tokens = Array.from(model.tokenizer.encode(text))
  if (tokens.length < length) {
    throw new FlrcError(
      'E_USAGE',
      `the text has ${tokens.length} tokens and a prompt ${length}; give a longer text`,
    )
  }
  const distance = Math.floor((tokens.length - length) / count)
  return Array.from({ length: count }, (_, index) => tokens.slice(index * distance, index * distance + length))
}

function rowOf(
  { name, model, scheduleName }: DecodeSubject,
  runs: readonly DecodeRun[],
  bandwidths: readonly number[],
): DecodeRow {
  const speeds = runs.map((run) => run.tokensPerSecond)
  const bytesPerToken = meanOf(runs.map((run) => run.bytesPerToken))
  const meanActiveBudget = meanOf(runs.map((run) => run.meanActiveBudget))
  const shares = runs.map((run, round) => (run.tokensPerSecond * run.bytesPerToken) / (bandwidths[round] ?? 1))
  return {
    ...{ name, dtype: model.dtype, schedule: scheduleName },
    tokensPerSecond: medianOf(speeds),
    spread: spreadOf(speeds),
    bytesPerToken,
    ceiling: medianOf(bandwidths) / bytesPerToken,
    bandwidthShare: medianOf(shares),
    meanActiveBudget,
    timeToFirstTokenMs: medianOf(runs.map((run) => run.timeToFirstTokenMs)),
  }
}

function spreadOf(values: readonly number[]): [number, number] {
  return [Math.min(...values), Math.max(...values)]
}
