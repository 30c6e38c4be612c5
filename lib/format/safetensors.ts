import { realpath } from 'node:fs/promises'
import { basename, dirname, join, sep } from 'node:path'
import * as v from 'valibot'
import { FlrcError } from '../errors.js'
import { fileError, issueText, parseJsonObject, readBytes, readJsonObject, regularFileSize } from './files.js'
import type { TensorSource, TensorType } from './types.js'

/** The format's own bound on a header (https://github.com/huggingface/safetensors). */
export const headerLimit = 100_000_000
const prefixBytes = 8
const maxDimensions = 16
const maxShards = 10_000

const bytesPerValue: Record<string, number> = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  F8_E8M0: 1,
  I16: 2,
  U16: 2,
  F16: 2,
  BF16: 2,
  I32: 4,
  U32: 4,
  F32: 4,
  I64: 8,
  U64: 8,
  F64: 8,
  C64: 8,
}

/** Types a tensor in use may have; the others are read past. */
const usableTypes: ReadonlySet<string> = new Set<TensorType>(['F64', 'F32', 'F16', 'BF16', 'I32', 'I8', 'U8'])

export function isUsableType(dtype: string): dtype is TensorType {
  return usableTypes.has(dtype)
}

/** One tensor of a file, whatever its type. Offset is absolute in the file. */
export interface StoredTensor {
  name: string
  file: string
  dtype: string
  shape: number[]
  offset: number
  byteLength: number
}

export interface SafetensorsFile {
  file: string
  fileBytes: number
  metadata: Record<string, string>
  tensors: Map<string, StoredTensor>
}

const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0))
const entrySchema = v.object({
  dtype: v.string(),
  shape: v.pipe(v.array(count), v.maxLength(maxDimensions)),
  data_offsets: v.tuple([count, count]),
})
const metadataSchema = v.record(v.string(), v.string())
const indexSchema = v.object({ weight_map: v.record(v.string(), v.string()) })

function malformed(file: string, problem: string, tensor?: string): FlrcError {
  const where = tensor === undefined ? '' : `tensor ${tensor}: `
  return new FlrcError('E_MODEL_FORMAT', `${file}: ${where}${problem}; download the file again`, {
    file,
    ...(tensor === undefined ? {} : { tensor }),
  })
}

/** A key that occurs twice in the outermost object of a valid JSON text: JSON.parse would keep only the last. */
function repeatedKey(json: string): string | undefined {
  const seen = new Set<string>()
  let depth = 0
  let keyExpected = false
  for (let i = 0; i < json.length; i++) {
    const c = json[i]
    if (c === '"') {
      const begin = i
      for (i++; json[i] !== '"'; i++) if (json[i] === '\\') i++
      if (depth === 1 && keyExpected) {
        const key: string = JSON.parse(json.slice(begin, i + 1))
        if (seen.has(key)) return key
        seen.add(key)
        keyExpected = false
      }
    } else if (c === '{' || c === '[') {
      depth++
      keyExpected = depth === 1
    } else if (c === '}' || c === ']') {
      depth--
    } else if (c === ',' && depth === 1) {
      keyExpected = true
    }
  }
  return undefined
}

function checkByteRange(tensor: StoredTensor): void {
  const { file, name, dtype, shape, byteLength } = tensor
  const size = bytesPerValue[dtype]
  if (size === undefined) return
  const needed = shape.reduce((product, n) => product * n, size)
  if (needed !== byteLength) {
    throw malformed(
      file,
      `shape [${shape}] of ${dtype} needs ${needed} bytes, but the header gives it ${byteLength}`,
      name,
    )
  }
}

/** The format wants the data filled without gaps or overlaps, so that no byte is outside a tensor. */
function checkLayout(file: string, tensors: StoredTensor[], dataStart: number, fileBytes: number): void {
  const sorted = tensors.toSorted((a, b) => a.offset - b.offset || a.byteLength - b.byteLength)
  let end = dataStart
  let previous = 'the header'
  for (const tensor of sorted) {
    const problem = tensor.offset < end ? 'overlaps' : tensor.offset > end ? 'leaves a hole after' : undefined
    if (problem) throw malformed(file, `${problem} ${previous}`, tensor.name)
    end = tensor.offset + tensor.byteLength
    previous = `tensor ${tensor.name}`
  }
  if (end > fileBytes) {
    const first = sorted.find((t) => t.offset + t.byteLength > fileBytes)
    throw malformed(file, `the file is cut: ${fileBytes} bytes where its header needs ${end}`, first?.name)
  }
  if (end < fileBytes) throw malformed(file, `${fileBytes - end} bytes after the last tensor`)
}

/**
 * Reads and checks a safetensors header; no weights are read. Throws E_NOT_FOUND, E_IO, or E_MODEL_FORMAT
 * for anything the format forbids. Types we cannot compute with pass here and fail where they are used.
 */
export async function readSafetensors(file: string): Promise<SafetensorsFile> {
  const fileBytes = await regularFileSize(file)
  if (fileBytes < prefixBytes) throw malformed(file, `only ${fileBytes} bytes, no safetensors header`)
  const headerBytes = Number((await readBytes(file, 0, prefixBytes)).readBigUInt64LE())
  if (headerBytes > headerLimit) {
    throw malformed(file, `header of ${headerBytes} bytes, more than the ${headerLimit} allowed`)
  }
  const dataStart = prefixBytes + headerBytes
  if (dataStart > fileBytes) {
    throw malformed(file, `the file is cut: header of ${headerBytes} bytes in a file of ${fileBytes}`)
  }
  const text = (await readBytes(file, prefixBytes, headerBytes)).toString('utf8')
  const header = parseJsonObject(text, file, 'E_MODEL_FORMAT')
  const repeated = repeatedKey(text)
  if (repeated !== undefined) throw malformed(file, 'named twice in the header', repeated)

  const tensors = new Map<string, StoredTensor>()
  let metadata: Record<string, string> = {}
  for (const [name, value] of Object.entries(header)) {
    if (name === '__metadata__') {
      const parsed = v.safeParse(metadataSchema, value)
      if (!parsed.success) throw malformed(file, '__metadata__ is no map of strings')
      metadata = parsed.output
      continue
    }
    const parsed = v.safeParse(entrySchema, value)
    if (!parsed.success) throw malformed(file, `bad header entry (${issueText(parsed.issues)})`, name)
    const { dtype, shape, data_offsets } = parsed.output
    const [begin, end] = data_offsets
    if (end < begin) throw malformed(file, `ends at ${end}, before it begins at ${begin}`, name)
    const tensor = { name, file, dtype, shape, offset: dataStart + begin, byteLength: end - begin }
    checkByteRange(tensor)
    tensors.set(name, tensor)
  }
  checkLayout(file, [...tensors.values()], dataStart, fileBytes)
  return { file, fileBytes, metadata, tensors }
}

/**
 * Path of a shard the index names. The name comes from a stranger: it must be a plain file name, and lie
 * in the directory once links are followed, or in the blobs beside a hub cache's snapshots, where the
 * Python library keeps what its links point to.
 */
async function shardPath(directory: string, index: string, shard: string): Promise<string> {
  const refuse = (why: string) =>
    new FlrcError(
      'E_MODEL_FORMAT',
      `${index}: shard name ${JSON.stringify(shard)} ${why}; shards must be files in the model's own directory`,
      { file: index },
    )
  if (!/^[^/\\\0]+\.safetensors$/.test(shard)) throw refuse('is no plain .safetensors name')
  const path = join(directory, shard)
  let target: string
  let root: string
  try {
    root = await realpath(directory)
    target = await realpath(path)
  } catch (error) {
    throw fileError(path, error)
  }
  const roots = [root]
  if (basename(dirname(root)) === 'snapshots') roots.push(join(root, '..', '..', 'blobs'))
  if (!roots.some((allowed) => target.startsWith(allowed + sep))) throw refuse('leads out of the directory')
  return path
}

export interface StoredTensors {
  tensors: Map<string, StoredTensor>
  /** Sum of the sizes of the files in bytes. */
  fileBytes: number
}

/** The shard of each tensor, by `model.safetensors.index.json`. */
async function readWeightMap(directory: string): Promise<Map<string, string>> {
  const index = join(directory, 'model.safetensors.index.json')
  const json = await readJsonObject(index, { limit: headerLimit, code: 'E_MODEL_FORMAT' })
  const parsed = v.safeParse(indexSchema, json)
  if (!parsed.success) throw malformed(index, `bad weight_map (${issueText(parsed.issues)})`)
  const weightMap = new Map(Object.entries(parsed.output.weight_map))
  const shards = new Set(weightMap.values())
  if (shards.size > maxShards) throw malformed(index, `${shards.size} shards, more than ${maxShards}`)
  return weightMap
}

/** Names of the shards that a directory's index lists, each once. */
export async function shardNames(directory: string): Promise<string[]> {
  return [...new Set((await readWeightMap(directory)).values())]
}

/** All tensors of a directory with `model.safetensors.index.json`. */
export async function readShardedSafetensors(directory: string): Promise<StoredTensors> {
  const index = join(directory, 'model.safetensors.index.json')
  const weightMap = await readWeightMap(directory)
  const files = new Map<string, SafetensorsFile>()
  for (const shard of new Set(weightMap.values())) {
    files.set(shard, await readSafetensors(await shardPath(directory, index, shard)))
  }
  const tensors = new Map<string, StoredTensor>()
  for (const [name, shard] of weightMap) {
    const tensor = files.get(shard)?.tensors.get(name)
    if (!tensor) throw malformed(join(directory, shard), `named in ${basename(index)} but not there`, name)
    tensors.set(name, tensor)
  }
  const fileBytes = [...files.values()].reduce((sum, file) => sum + file.fileBytes, 0)
  return { tensors, fileBytes }
}

/** The contract's form of a stored tensor. Throws E_UNSUPPORTED_TYPE for a type we cannot compute with. */
export function tensorSource(tensor: StoredTensor, allowed: readonly TensorType[]): TensorSource {
  const { name, file, dtype, shape, offset, byteLength } = tensor
  if (!isUsableType(dtype) || !allowed.includes(dtype)) {
    throw new FlrcError(
      'E_UNSUPPORTED_TYPE',
      `${file}: tensor ${name} is ${dtype}; supported are ${allowed.join(', ')}; convert the model to one of them`,
      { file, tensor: name },
    )
  }
  return { name, file, offset, byteLength, type: dtype, shape }
}

/** One tensor to be written. */
export interface HeaderEntry {
  name: string
  type: TensorType
  shape: number[]
  byteLength: number
}

export interface WrittenHeader {
  /** The 8-byte length and the JSON, padded with spaces so that the data begins at a multiple of 8. */
  header: Uint8Array
  /** Absolute offset in the file of each entry, in the order given. */
  offsets: number[]
  /** Size of the whole file. */
  fileBytes: number
}

/**
 * Header of a file that holds the entries one after another, in the order given. Throws E_INTERNAL for
 * entries that no reader would take back.
 */
export function safetensorsHeader(
  entries: readonly HeaderEntry[],
  metadata: Record<string, string> = {},
): WrittenHeader {
  const header: [string, unknown][] = [['__metadata__', { format: 'pt', ...metadata }]]
  const names = new Set<string>(['__metadata__'])
  const begins: number[] = []
  let end = 0
  for (const { name, type, shape, byteLength } of entries) {
    const expected = shape.reduce((product, n) => product * n, bytesPerValue[type] ?? Number.NaN)
    if (expected !== byteLength || names.has(name)) {
      const why = names.has(name) ? 'named twice' : `${byteLength} bytes for shape [${shape}] of ${type}`
      throw new FlrcError('E_INTERNAL', `cannot write tensor ${name}: ${why}; report this as a bug`, {
        tensor: name,
      })
    }
    names.add(name)
    begins.push(end)
    header.push([name, { dtype: type, shape, data_offsets: [end, end + byteLength] }])
    end += byteLength
  }
  const json = Buffer.from(JSON.stringify(Object.fromEntries(header)), 'utf8')
  const headerBytes = Math.ceil(json.length / prefixBytes) * prefixBytes
  const bytes = Buffer.alloc(prefixBytes + headerBytes, ' ')
  bytes.writeBigUInt64LE(BigInt(headerBytes))
  json.copy(bytes, prefixBytes)
  return { header: bytes, offsets: begins.map((begin) => bytes.length + begin), fileBytes: bytes.length + end }
}
