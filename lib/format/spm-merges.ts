import { FlrcError } from '../errors.js'

/** One entry of a SentencePiece vocabulary. */
export interface ScoredPiece {
  token: string
  score: number
  /** False for control, byte and unknown pieces, which no merge makes. */
  mergeable: boolean
}

interface Merge {
  /** Characters of the parts. */
  lengths: [number, number]
  score: number
  piece: number
  ids: [number, number]
}

/**
 * SentencePiece trains pieces of 16 characters unless told otherwise, and runs of spaces are of some dozens: what is longer is
 * beyond any trained vocabulary. The search below takes the square of a piece's length.
 */
const maxPieceLength = 256
/** Vocabularies of 256 k pieces have 600 k. */
const maxMerges = 1_000_000

/**
 * BPE merges of a SentencePiece vocabulary, in the order of transformers' generate_merges: every way to cut a
 * piece in two pieces of the vocabulary, the highest score first; of equal scores the longer left part, then
 * the longer right part (in characters), then the earlier piece, then the lower ids of the parts.
 * SentencePiece itself merges the pair whose union scores highest, which this order says. E_TOKENIZER for more merges than
 * any trained vocabulary has; `file` is for that.
 */
export function mergesFromScores(pieces: readonly ScoredPiece[], file: string): [string, string][] {
  const ids = new Map<string, number>()
  pieces.forEach(({ token, mergeable }, id) => {
    if (mergeable) ids.set(token, id)
  })
  const merges: Merge[] = []
  pieces.forEach(({ token, score, mergeable }, piece) => {
    if (!mergeable || token.length > maxPieceLength) return
    const characters = Array.from(token)
    let cut = 0
    characters.forEach((character, i) => {
      cut += character.length
      const leftId = ids.get(token.slice(0, cut))
      const rightId = ids.get(token.slice(cut))
      if (leftId === undefined || rightId === undefined) return
      if (merges.length === maxMerges) {
        throw new FlrcError(
          'E_TOKENIZER',
          `${file}: its vocabulary makes more than ${maxMerges} merges; use the tokenizer of the original model`,
          { file },
        )
      }
      const lengths: [number, number] = [i + 1, characters.length - i - 1]
      merges.push({ lengths, score, piece, ids: [leftId, rightId] })
    })
  })
  merges.sort(
    (a, b) =>
      b.score - a.score ||
      b.lengths[0] - a.lengths[0] ||
      b.lengths[1] - a.lengths[1] ||
      a.piece - b.piece ||
      a.ids[0] - b.ids[0] ||
      a.ids[1] - b.ids[1],
  )
  const textOf = (id: number) => pieces[id]?.token ?? ''
  return merges.map(({ ids: [left, right] }) => [textOf(left), textOf(right)])
}
