/**
 * Dense weights on grids that the library does not store: plain rounding in groups, as its int4 does it, with fewer
 * bits. The rounded values are held in f32, so that perplexity is that of the grid and of nothing else; bytes are
 * counted as the grid would be stored.
 */
import { type FileHandle, open } from 'node:fs/promises'
import { openModelSource } from '#lib/model-source.js'

/** Weights along a row that share a scale and a zero point, as in native/tensor/dtype.h. */
export const groupSize = 32
const scaleBytes = 2
const zeroBytes = 1
/** Rows are rounded in chunks of about this size. */
const chunkBytes = 1 << 24

const word = new Uint32Array(1)
const real = new Float32Array(word.buffer)

/** To the nearest bf16, ties to even. */
export function toBf16(value: number): number {
  real[0] = value
  const bits = word[0] ?? 0
  word[0] = ((bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000) >>> 0
  return real[0] ?? 0
}

/** Ties to even, as the processor rounds: Math.round alone would take them up. */
function nearest(value: number): number {
  const up = Math.round(value)
  return up - value === 0.5 && up % 2 !== 0 ? up - 1 : up
}

const clamp = (value: number, low: number, high: number) => Math.min(high, Math.max(low, value))

/**
 * Puts a group on 2^bits evenly spaced values whose range holds the group and 0: bf16 scale, whole zero point.
 * With 4 bits this is the library's int4 (native/tensor/matrix.cc), in the same f32 arithmetic.
 */
export function roundGroup(group: Float32Array, bits: number): void {
  const steps = 2 ** bits - 1
  let low = 0
  let high = 0
  for (const value of group) {
    low = Math.min(low, value)
    high = Math.max(high, value)
  }
  const scale = toBf16(Math.fround(Math.fround(high / steps) - Math.fround(low / steps)))
  const zero = scale > 0 ? clamp(nearest(Math.fround(-low / scale)), 0, steps) : 0
  for (const [i, value] of group.entries()) {
    const step = scale > 0 ? nearest(Math.fround(value / scale)) : 0
    group[i] = (clamp(step + zero, 0, steps) - zero) * scale
  }
}

/** The library's int8: -127 to 127 times a bf16 scale. */
export function roundGroupInt8(group: Float32Array): void {
  const most = group.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0)
  const scale = toBf16(Math.fround(most / 127))
  for (const [i, value] of group.entries()) {
    group[i] = scale > 0 ? clamp(nearest(Math.fround(value / scale)), -127, 127) * scale : 0
  }
}

/** Bytes of a rows x cols matrix stored in groups along its rows; fewer than 8 bits need a zero point a group. */
export function groupedBytes(rows: number, cols: number, bits: number): number {
  const groups = Math.ceil(cols / groupSize)
  return rows * (Math.ceil((cols * bits) / 8) + groups * (scaleBytes + (bits < 8 ? zeroBytes : 0)))
}

export function isEmbedding(name: string): boolean {
  return /^(model\.embed_tokens|lm_head)\.weight/.test(name)
}

/** What counting bytes needs of a tensor as it is stored. */
interface Entry {
  name: string
  shape: readonly number[]
  byteLength: number
}

/**
 * Bytes of the tensors with embedding and head counted as int8 and, where `blockBits` is given, the other matrices
 * as a grid of that many bits. Vectors (norms, biases) count as they are.
 */
export function countedBytes(
  entries: readonly Entry[],
  embedding: { vocabSize: number; hiddenSize: number; tieEmbeddings: boolean },
  blockBits?: number,
): number {
  const tables = embedding.tieEmbeddings ? 1 : 2
  const begin = tables * groupedBytes(embedding.vocabSize, embedding.hiddenSize, 8)
  return entries
    .filter(({ name }) => !isEmbedding(name))
    .reduce((sum, { shape: [rows = 0, cols], byteLength }) => {
      const isMatrix = cols !== undefined
      return sum + (isMatrix && blockBits !== undefined ? groupedBytes(rows, cols, blockBits) : byteLength)
    }, begin)
}

/**
 * Rounds the weights of a dense Hugging Face directory in f32 where they lie: embedding and head to int8, the
 * projections to `blockBits` where it is given.
 */
export async function roundDirectory(directory: string, blockBits?: number): Promise<void> {
  const { tensors } = await openModelSource(directory)
  for (const { name, file, offset, shape, type } of tensors.values()) {
    const [rows = 0, cols = 0] = shape
    if (shape.length !== 2 || (blockBits === undefined && !isEmbedding(name))) continue
    if (type !== 'F32') throw new Error(`${name} is ${type}; export the model in f32 before rounding it`)
    const round = isEmbedding(name)
      ? roundGroupInt8
      : (group: Float32Array) => roundGroup(group, blockBits ?? 8)
    const handle = await open(file, 'r+')
    try {
      await roundTensor(handle, offset, rows, cols, round)
    } finally {
      await handle.close()
    }
  }
}

async function roundTensor(
  handle: FileHandle,
  offset: number,
  rows: number,
  cols: number,
  round: (group: Float32Array) => void,
): Promise<void> {
  const rowBytes = cols * 4
  const rowsAtOnce = Math.max(1, Math.floor(chunkBytes / rowBytes))
  for (let first = 0; first < rows; first += rowsAtOnce) {
    const values = new Float32Array(Math.min(rowsAtOnce, rows - first) * cols)
    const bytes = new Uint8Array(values.buffer)
    await handle.read(bytes, 0, bytes.length, offset + first * rowBytes)
    for (let row = 0; row < values.length; row += cols) {
      for (let column = 0; column < cols; column += groupSize) {
        round(values.subarray(row + column, row + Math.min(column + groupSize, cols)))
      }
    }
    await handle.write(bytes, 0, bytes.length, offset + first * rowBytes)
  }
}
