import { FlrcError } from '../errors.js'
import { regularFileSize, statIfThere } from './files.js'
import {
  type GgufArray,
  GgufHeaderError,
  type GgufScalar,
  NotGgufError,
  type RawTensor,
  readGgufHeader,
} from './gguf-header.js'
import { ggufParts } from './gguf-split.js'
import type { TensorType } from './types.js'

/** Numbers per block and bytes per block of every GGML type, by its number in the file. */
const ggmlTypes: Record<number, [name: string, values: number, bytes: number]> = {
  0: ['F32', 1, 4],
  1: ['F16', 1, 2],
  2: ['Q4_0', 32, 18],
  3: ['Q4_1', 32, 20],
  6: ['Q5_0', 32, 22],
  7: ['Q5_1', 32, 24],
  8: ['Q8_0', 32, 34],
  9: ['Q8_1', 32, 40],
  10: ['Q2_K', 256, 84],
  11: ['Q3_K', 256, 110],
  12: ['Q4_K', 256, 144],
  13: ['Q5_K', 256, 176],
  14: ['Q6_K', 256, 210],
  15: ['Q8_K', 256, 292],
  16: ['IQ2_XXS', 256, 66],
  17: ['IQ2_XS', 256, 74],
  18: ['IQ3_XXS', 256, 98],
  19: ['IQ1_S', 256, 50],
  20: ['IQ4_NL', 32, 18],
  21: ['IQ3_S', 256, 110],
  22: ['IQ2_S', 256, 82],
  23: ['IQ4_XS', 256, 136],
  24: ['I8', 1, 1],
  25: ['I16', 1, 2],
  26: ['I32', 1, 4],
  27: ['I64', 1, 8],
  28: ['F64', 1, 8],
  29: ['IQ1_M', 256, 56],
  30: ['BF16', 1, 2],
  34: ['TQ1_0', 256, 54],
  35: ['TQ2_0', 256, 66],
  39: ['MXFP4', 32, 17],
}

export const ggufTypes: readonly TensorType[] = [
  'F32',
  'F16',
  'BF16',
  'Q8_0',
  'Q4_0',
  'Q4_1',
  'Q5_0',
  'Q5_1',
  'Q4_K',
  'Q5_K',
  'Q6_K',
  'Q2_K',
  'Q3_K',
  'IQ4_NL',
  'IQ4_XS',
]

/** One tensor of a file, whatever its type. */
export interface GgufTensor {
  /** GGML name, such as `blk.0.attn_q.weight`. */
  name: string
  /** Where it lies: of a split model, one of its parts. */
  file: string
  /** GGML type name, or `type N` for a number unknown to us, whose byteLength is then unknown and 0. */
  type: string
  /** Row-major, outermost first: the file's dimensions reversed. */
  shape: number[]
  /** Absolute in the file. */
  offset: number
  byteLength: number
}

export interface GgufFile {
  /** As given. */
  file: string
  /** Of all parts. */
  fileBytes: number
  metadata: Map<string, GgufScalar | GgufArray>
  tensors: Map<string, GgufTensor>
}

const remedy = 'download the file again'

function malformed(
  file: string,
  problem: string,
  detail: { tensor?: string; cause?: unknown } = {},
): FlrcError {
  const where = detail.tensor === undefined ? '' : `tensor ${detail.tensor}: `
  return new FlrcError('E_MODEL_FORMAT', `${file}: ${where}${problem}; ${remedy}`, { file, ...detail })
}

function checkedTensor(
  file: string,
  raw: RawTensor,
  dataStart: number,
  fileBytes: number,
  alignment: number,
): GgufTensor {
  const { name, dimensions } = raw
  const count = dimensions.reduce((product, n) => product * n, 1)
  if (!Number.isSafeInteger(count) || count < 1) {
    throw malformed(file, `impossible shape [${dimensions}]`, { tensor: name })
  }
  if (raw.offset > BigInt(fileBytes)) {
    throw malformed(file, `begins at ${raw.offset}, past the end of a file of ${fileBytes} bytes`, {
      tensor: name,
    })
  }
  if (raw.offset % BigInt(alignment) !== 0n) {
    throw malformed(file, `offset ${raw.offset} is not aligned to ${alignment}`, { tensor: name })
  }
  const offset = dataStart + Number(raw.offset)
  const shape = dimensions.toReversed()
  const [type, blockValues, blockBytes] = ggmlTypes[raw.type] ?? [`type ${raw.type}`, 1, 0]
  const row = dimensions[0] ?? 0
  if (row % blockValues !== 0) {
    throw malformed(file, `rows of ${row} numbers do not fill ${type} blocks of ${blockValues}`, {
      tensor: name,
    })
  }
  const byteLength = (count / blockValues) * blockBytes
  if (offset + byteLength > fileBytes) {
    throw malformed(
      file,
      `the file is cut: ${fileBytes} bytes where this tensor ends at ${offset + byteLength}`,
      { tensor: name },
    )
  }
  return { name, file, type, shape, offset, byteLength }
}

function checkOverlaps(file: string, tensors: Iterable<GgufTensor>): void {
  const sorted = [...tensors].sort((a, b) => a.offset - b.offset || a.byteLength - b.byteLength)
  let end = 0
  let previous = ''
  for (const tensor of sorted) {
    if (tensor.offset < end) throw malformed(file, `overlaps tensor ${previous}`, { tensor: tensor.name })
    end = tensor.offset + tensor.byteLength
    previous = tensor.name
  }
}

function alignmentOf(file: string, metadata: GgufFile['metadata']): number {
  const alignment = metadata.get('general.alignment') ?? 32
  if (
    typeof alignment !== 'number' ||
    alignment < 1 ||
    alignment > 65_536 ||
    !Number.isInteger(Math.log2(alignment))
  ) {
    throw malformed(file, `general.alignment ${alignment} is no power of two up to 65536`)
  }
  return alignment
}

async function headerOf(file: string, fileBytes: number) {
  try {
    return await readGgufHeader(file, fileBytes)
  } catch (error) {
    if (error instanceof NotGgufError && !/\.gguf$/i.test(file)) {
      const models = 'give a .gguf file, a Hugging Face directory or an FLRC directory'
      throw new FlrcError('E_MODEL_FORMAT', `${file}: ${error.message}; ${models}`, { file, cause: error })
    }
    throw error instanceof GgufHeaderError ? malformed(file, error.message, { cause: error }) : error
  }
}

async function readPart(file: string): Promise<GgufFile> {
  const fileBytes = await regularFileSize(file)
  const { metadata, tensors: raws, end: headerEnd } = await headerOf(file, fileBytes)
  const alignment = alignmentOf(file, metadata)
  const dataStart = Math.ceil(headerEnd / alignment) * alignment
  const tensors = new Map<string, GgufTensor>()
  for (const raw of raws) {
    if (tensors.has(raw.name)) throw malformed(file, 'named twice in the header', { tensor: raw.name })
    tensors.set(raw.name, checkedTensor(file, raw, dataStart, fileBytes, alignment))
  }
  checkOverlaps(file, tensors.values())
  return { file, fileBytes, metadata, tensors }
}

const partsOf = ({ metadata }: GgufFile) => Number(metadata.get('split.count') ?? 1)

/** The parts of a split model as one; the first has the metadata of all. */
async function readParts(given: GgufFile): Promise<GgufFile> {
  const { file } = given
  const count = partsOf(given)
  const names = ggufParts(file)
  if (names?.length !== count) {
    throw new FlrcError(
      'E_MODEL_FORMAT',
      `${file}: one part of ${count} of a split GGUF file, under a name that does not say so; name the parts as they were published (NAME-00001-of-${String(count).padStart(5, '0')}.gguf), or join them with llama-gguf-split --merge`,
      { file },
    )
  }
  const parts: GgufFile[] = []
  const tensors: GgufFile['tensors'] = new Map()
  for (const name of names) {
    if (!(await statIfThere(name))) {
      throw new FlrcError(
        'E_NOT_FOUND',
        `${name}: missing, one part of ${count} of a split GGUF file; put all parts into one folder`,
        { file: name },
      )
    }
    const part = name === file ? given : await readPart(name)
    if (partsOf(part) !== count || part.metadata.get('split.no') !== parts.length) {
      throw malformed(name, `no part ${parts.length + 1} of ${count} of a split GGUF file`)
    }
    for (const tensor of part.tensors.values()) {
      if (tensors.has(tensor.name)) throw malformed(name, 'is in an earlier part too', { tensor: tensor.name })
      tensors.set(tensor.name, tensor)
    }
    parts.push(part)
  }
  const metadata = parts[0]?.metadata ?? given.metadata
  const total = metadata.get('split.tensors.count') ?? tensors.size
  if (total !== tensors.size)
    throw malformed(file, `${tensors.size} tensors in all parts, ${total} in its metadata`)
  return { file, fileBytes: parts.reduce((sum, { fileBytes }) => sum + fileBytes, 0), metadata, tensors }
}

/**
 * Reads and checks a GGUF header, of a split model those of all its parts; no weights are read. Throws E_NOT_FOUND, E_IO, or
 * E_MODEL_FORMAT for a header that lies about the file. Tensor types we cannot compute with pass here and fail where they
 * are used.
 */
export async function readGguf(file: string): Promise<GgufFile> {
  const gguf = await readPart(file)
  return partsOf(gguf) > 1 ? readParts(gguf) : gguf
}

function wrongKind(gguf: GgufFile, key: string, wanted: string): FlrcError {
  const problem = gguf.metadata.has(key) ? `is no ${wanted}` : 'is missing'
  return malformed(gguf.file, `metadata ${key} ${problem}`)
}

/** Typed access to metadata: undefined where absent, E_MODEL_FORMAT where of another kind. */
export function ggufString(gguf: GgufFile, key: string): string | undefined {
  const value = gguf.metadata.get(key)
  if (value !== undefined && typeof value !== 'string') throw wrongKind(gguf, key, 'string')
  return value
}

export function ggufNumber(gguf: GgufFile, key: string): number | undefined {
  const value = gguf.metadata.get(key)
  if (value !== undefined && (typeof value !== 'number' || !Number.isFinite(value))) {
    throw wrongKind(gguf, key, 'number')
  }
  return value
}

export function ggufFlag(gguf: GgufFile, key: string): boolean | undefined {
  const value = gguf.metadata.get(key)
  if (value !== undefined && typeof value !== 'boolean') throw wrongKind(gguf, key, 'flag')
  return value
}

function items(gguf: GgufFile, key: string, wanted: string): GgufScalar[] | undefined {
  const value = gguf.metadata.get(key)
  if (value === undefined) return undefined
  const list = typeof value === 'object' ? value.items() : undefined
  if (!list) throw wrongKind(gguf, key, wanted)
  return list
}

export function ggufStrings(gguf: GgufFile, key: string): string[] | undefined {
  const wanted = 'list of strings'
  const list = items(gguf, key, wanted)
  if (list === undefined) return undefined
  if (!list.every((item) => typeof item === 'string')) throw wrongKind(gguf, key, wanted)
  return list
}

export function ggufNumbers(gguf: GgufFile, key: string): number[] | undefined {
  const wanted = 'list of numbers'
  const list = items(gguf, key, wanted)
  if (list === undefined) return undefined
  if (!list.every((item) => typeof item === 'number')) throw wrongKind(gguf, key, wanted)
  return list
}

/** Where these texts are in a list of strings; none where there is no such list. */
export function ggufPlaces(
  gguf: GgufFile,
  key: string,
  texts: ReadonlySet<string>,
): [index: number, text: string][] {
  const value = gguf.metadata.get(key)
  return typeof value === 'object' ? value.places(texts) : []
}

/** A number that must be there. */
export function ggufRequired(gguf: GgufFile, key: string): number {
  const value = ggufNumber(gguf, key)
  if (value === undefined) throw wrongKind(gguf, key, 'number')
  return value
}
