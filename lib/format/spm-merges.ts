/** One entry of a SentencePiece vocabulary. */
export interface ScoredPiece {
  token: string
  score: number
  /** False for control, byte and unknown pieces, which no merge makes. */
  mergeable: boolean
}

interface Merge {
  left: string
  right: string
  /** Characters of the parts. */
  lengths: [number, number]
  score: number
  piece: number
  ids: [number, number]
}

/** Pieces longer than this are beyond any trained vocabulary, and would make the search below quadratic. */
const maxPieceLength = 1024

/**
 * BPE merges of a SentencePiece vocabulary, in the order of transformers' generate_merges: every way to cut a
 * piece in two pieces of the vocabulary, the highest score first; of equal scores the longer left part, then
 * the longer right part (in characters), then the earlier piece, then the lower ids of the parts.
 * SentencePiece itself merges the pair whose union scores highest, which this order says.
 */
export function mergesFromScores(pieces: readonly ScoredPiece[]): [string, string][] {
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
      const left = token.slice(0, cut)
      const right = token.slice(cut)
      const leftId = ids.get(left)
      const rightId = ids.get(right)
      if (leftId === undefined || rightId === undefined) return
      const lengths: [number, number] = [i + 1, characters.length - i - 1]
      merges.push({ left, right, lengths, score, piece, ids: [leftId, rightId] })
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
  return merges.map(({ left, right }) => [left, right])
}
