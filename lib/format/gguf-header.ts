/*
 * Why not @huggingface/gguf: it reads zeros past a file's end and parses a long value anew for each 2 MB it
 * fetches, so that 95 bytes keep it busy for 8 s and a 50 MB header for a minute, and it strips byte order
 * marks from tokens. Tests compare this reader with it on well-formed files.
 */
import { readBytes } from './files.js'

export type GgufScalar = string | number | boolean

/** An array of the metadata, decoded when asked for: vocabularies are large, and most arrays go unread. */
export interface GgufArray {
  length: number
  /** Undefined for an array of arrays. */
  items(): GgufScalar[] | undefined
  /** Where these texts are in an array of strings, none of the others decoded. */
  places(texts: ReadonlySet<string>): [index: number, text: string][]
}

export interface RawTensor {
  name: string
  /** As in the file, innermost first. */
  dimensions: number[]
  type: number
  offset: bigint
}

export interface GgufHeader {
  metadata: Map<string, GgufScalar | GgufArray>
  tensors: RawTensor[]
  /** First byte after the header, before alignment. */
  end: number
}

/** The header contradicts itself or the file. */
export class GgufHeaderError extends Error {}

/** Of a file that is of another kind, or of none. */
export class NotGgufError extends GgufHeaderError {}

/** More bytes of the file are needed. */
class OutOfBytes extends Error {}

const maxHeaderBytes = 256_000_000
/** Enough for a vocabulary of 100,000. */
const firstReadBytes = 1 << 22
const maxDimensions = 4
const maxArrayDepth = 4
/** The least one metadata entry and one tensor entry take: an empty name, its type and a byte; one dimension. */
const minMetadataBytes = 9
const minTensorBytes = 24

const valueType = { string: 8, array: 9 } as const

type Decode = (bytes: Buffer, at: number) => GgufScalar

/** Metadata types of fixed size, by their number in the file. */
const fixedTypes: Record<number, [size: number, decode: Decode]> = {
  0: [1, (bytes, at) => bytes.readUInt8(at)],
  1: [1, (bytes, at) => bytes.readInt8(at)],
  2: [2, (bytes, at) => bytes.readUInt16LE(at)],
  3: [2, (bytes, at) => bytes.readInt16LE(at)],
  4: [4, (bytes, at) => bytes.readUInt32LE(at)],
  5: [4, (bytes, at) => bytes.readInt32LE(at)],
  6: [4, (bytes, at) => shortestFloat32(bytes.readFloatLE(at))],
  7: [1, (bytes, at) => bytes.readUInt8(at) !== 0],
  10: [8, (bytes, at) => Number(bytes.readBigUInt64LE(at))],
  11: [8, (bytes, at) => Number(bytes.readBigInt64LE(at))],
  12: [8, (bytes, at) => bytes.readDoubleLE(at)],
}

/** The shortest decimal that is the same float32: 1e-5 rather than 9.99999974e-6, as configs have it. */
function shortestFloat32(value: number): number {
  for (let digits = 6; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits))
    if (Math.fround(short) === value) return short
  }
  return value
}

class Cursor {
  readonly #bytes: Buffer
  readonly #wide: boolean
  at: number

  constructor(bytes: Buffer, at: number, wide: boolean) {
    this.#bytes = bytes
    this.#wide = wide
    this.at = at
  }

  /** Begin of the next `size` bytes, which are there. */
  take(size: number): number {
    const begin = this.at
    if (size > this.#bytes.length - begin) throw new OutOfBytes()
    this.at = begin + size
    return begin
  }

  uint32(): number {
    return this.#bytes.readUInt32LE(this.take(4))
  }

  uint64(): bigint {
    return this.#bytes.readBigUInt64LE(this.take(8))
  }

  /** A count or size: 32 bits in version 1, 64 later. */
  count(): number {
    if (!this.#wide) return this.uint32()
    // No BigInt: vocabularies ask this for every token.
    const low = this.uint32()
    return low + this.uint32() * 2 ** 32
  }

  string(): string {
    const begin = this.skipString()
    return this.#bytes.toString('utf8', begin, this.at)
  }

  /** Begin of the string's bytes, which end where the cursor then is. */
  skipString(): number {
    return this.take(this.count())
  }

  value(key: string): GgufScalar | GgufArray {
    const type = this.uint32()
    if (type === valueType.string) return this.string()
    if (type === valueType.array) return this.#array(key, 1)
    return this.#fixed(type, key)
  }

  #fixed(type: number, key: string): GgufScalar {
    const [size, decode] = fixedType(type, key)
    return decode(this.#bytes, this.take(size))
  }

  #array(key: string, depth: number): GgufArray {
    if (depth > maxArrayDepth) throw new GgufHeaderError(`metadata ${key}: arrays nested too deep`)
    const type = this.uint32()
    const length = this.count()
    const begin = this.at
    if (type === valueType.array) {
      for (let i = 0; i < length; i++) this.#array(key, depth + 1)
      return { length, items: () => undefined, places: () => [] }
    }
    if (type === valueType.string) {
      for (let i = 0; i < length; i++) this.skipString()
    } else {
      this.take(length * fixedType(type, key)[0])
    }
    return {
      length,
      items: () =>
        type === valueType.string ? this.#strings(begin, length) : this.#fixedItems(begin, length, type, key),
      places: (texts) => (type === valueType.string ? this.#places(begin, length, texts) : []),
    }
  }

  #places(begin: number, length: number, texts: ReadonlySet<string>): [number, string][] {
    const cursor = new Cursor(this.#bytes, begin, this.#wide)
    const sizes = new Set(Array.from(texts, (text) => Buffer.byteLength(text)))
    const found: [number, string][] = []
    for (let i = 0; i < length; i++) {
      const at = cursor.skipString()
      if (!sizes.has(cursor.at - at)) continue
      const text = this.#bytes.toString('utf8', at, cursor.at)
      if (texts.has(text)) found.push([i, text])
    }
    return found
  }

  #strings(begin: number, length: number): string[] {
    const cursor = new Cursor(this.#bytes, begin, this.#wide)
    return Array.from({ length }, () => cursor.string())
  }

  #fixedItems(begin: number, length: number, type: number, key: string): GgufScalar[] {
    const [size, decode] = fixedType(type, key)
    return Array.from({ length }, (_, index) => decode(this.#bytes, begin + index * size))
  }
}

function fixedType(type: number, key: string): [size: number, decode: Decode] {
  const fixed = fixedTypes[type]
  if (!fixed) throw new GgufHeaderError(`metadata ${key} has the unknown type ${type}`)
  return fixed
}

function parseHeader(bytes: Buffer, fileBytes: number): GgufHeader {
  const cursor = new Cursor(bytes, 0, true)
  if (bytes.toString('latin1', 0, 4) !== 'GGUF') {
    throw new NotGgufError('not a GGUF file (wrong magic number)')
  }
  cursor.take(4)
  const version = cursor.uint32()
  if (version !== 0 && (version & 0xffff) === 0) {
    throw new GgufHeaderError('a big-endian GGUF file, which is not supported')
  }
  if (version < 1 || version > 3) {
    throw new GgufHeaderError(`GGUF version ${version} is not supported (1 to 3 are)`)
  }
  const reader = new Cursor(bytes, cursor.at, version > 1)
  const tensorCount = reader.count()
  const metadataCount = reader.count()
  if (tensorCount * minTensorBytes + metadataCount * minMetadataBytes > fileBytes) {
    throw new GgufHeaderError(
      `${tensorCount} tensors and ${metadataCount} metadata entries in ${fileBytes} bytes`,
    )
  }
  const metadata = new Map<string, GgufScalar | GgufArray>()
  for (let i = 0; i < metadataCount; i++) {
    const key = reader.string()
    if (metadata.has(key)) throw new GgufHeaderError(`metadata ${key} is there twice`)
    metadata.set(key, reader.value(key))
  }
  const tensors: RawTensor[] = []
  for (let i = 0; i < tensorCount; i++) {
    const name = reader.string()
    const rank = reader.uint32()
    if (rank < 1 || rank > maxDimensions) throw new GgufHeaderError(`tensor ${name}: ${rank} dimensions`)
    const dimensions = Array.from({ length: rank }, () => reader.count())
    tensors.push({ name, dimensions, type: reader.uint32(), offset: reader.uint64() })
  }
  return { metadata, tensors, end: reader.at }
}

/**
 * Reads a GGUF header (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), versions 1 to 3, without
 * trusting a count in it: work and memory are linear in the part of the file that is really there. Throws
 * GgufHeaderError, E_IO.
 */
export async function readGgufHeader(file: string, fileBytes: number): Promise<GgufHeader> {
  // The header's size is written nowhere, so more is read until it fits; four times as much each time keeps
  // the work of starting anew below a third.
  for (let size = firstReadBytes; ; size *= 4) {
    const bytes = await readBytes(file, 0, Math.min(size, fileBytes))
    try {
      return parseHeader(bytes, fileBytes)
    } catch (error) {
      if (!(error instanceof OutOfBytes)) throw error
    }
    if (size >= fileBytes) {
      throw new GgufHeaderError(`the file is cut: ${fileBytes} bytes, and its header goes on`)
    }
    if (size >= maxHeaderBytes) throw new GgufHeaderError(`a header of more than ${maxHeaderBytes} bytes`)
  }
}
