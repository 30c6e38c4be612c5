import { stem } from './rouge/stem.js'

/** F-measures in [0, 1]. */
export interface RougeScores {
  /** Words in common. */
  rouge1: number
  /** Pairs of neighbouring words in common. */
  rouge2: number
  /** The longest common subsequence of words (rouge_score's `rougeL`: the whole text as one sentence). */
  rougeL: number
}

/** Words that rouge_score leaves unstemmed have at most this many characters. */
const unstemmed = 3

/**
 * The words that are compared, as Google's rouge_score (0.1.2, `use_stemmer=True`) makes them: lower case,
 * everything but a to z and 0 to 9 a separator, longer words stemmed.
 */
export function rougeTokens(text: string): string[] {
  const words = text.toLowerCase().match(/[a-z0-9]+/g) ?? []
  return words.map((word) => (word.length > unstemmed ? stem(word) : word))
}

/** ROUGE of a text against one reference, each figure that of rouge_score's `fmeasure`. */
export function rouge(reference: string, text: string): RougeScores {
  const expected = rougeTokens(reference)
  const found = rougeTokens(text)
  return {
    rouge1: commonShare(counted(expected, 1), counted(found, 1)),
    rouge2: commonShare(counted(expected, 2), counted(found, 2)),
    rougeL: fMeasure(longestCommonSubsequence(expected, found), expected.length, found.length),
  }
}

/** The mean of the scores against each of several references; with no reference, zeros. */
export function meanRouge(references: readonly string[], text: string): RougeScores {
  return meanScores(references.map((reference) => rouge(reference, text)))
}

export function meanScores(scores: readonly RougeScores[]): RougeScores {
  const mean = (key: keyof RougeScores) =>
    scores.reduce((sum, score) => sum + score[key], 0) / Math.max(1, scores.length)
  return { rouge1: mean('rouge1'), rouge2: mean('rouge2'), rougeL: mean('rougeL') }
}

/** How often each run of n words occurs. */
function counted(words: readonly string[], n: number): Map<string, number> {
  const counts = new Map<string, number>()
  for (let begin = 0; begin + n <= words.length; begin++) {
    const run = words.slice(begin, begin + n).join(' ')
    counts.set(run, (counts.get(run) ?? 0) + 1)
  }
  return counts
}

function commonShare(expected: ReadonlyMap<string, number>, found: ReadonlyMap<string, number>): number {
  let common = 0
  for (const [run, count] of expected) common += Math.min(count, found.get(run) ?? 0)
  return fMeasure(common, total(expected), total(found))
}

function total(counts: ReadonlyMap<string, number>): number {
  let sum = 0
  for (const count of counts.values()) sum += count
  return sum
}

/** 2 P R / (P + R) with precision P = common / found and recall R = common / expected. */
function fMeasure(common: number, expected: number, found: number): number {
  if (common === 0) return 0
  const precision = common / found
  const recall = common / expected
  return (2 * precision * recall) / (precision + recall)
}

function longestCommonSubsequence(a: readonly string[], b: readonly string[]): number {
  let above = new Uint32Array(b.length + 1)
  for (const word of a) {
    const row = new Uint32Array(b.length + 1)
    for (const [column, other] of b.entries()) {
      row[column + 1] =
        word === other ? at(above, column) + 1 : Math.max(at(above, column + 1), at(row, column))
    }
    above = row
  }
  return at(above, b.length)
}

function at(row: Uint32Array, index: number): number {
  return row[index] ?? 0
}
