import { writeFileSync } from 'node:fs'

/** One tensor to write; its bytes are zeros of the right size where none are given. */
export interface TestTensor {
  name: string
  dtype?: string
  shape: number[]
  data?: Uint8Array
}

const sizes: Record<string, number> = {
  F64: 8,
  I64: 8,
  F32: 4,
  I32: 4,
  F16: 2,
  BF16: 2,
  I8: 1,
  U8: 1,
  F8_E4M3: 1,
}

/** A file's bytes from any header (an object, or the JSON text itself) and data, right or wrong. */
export function rawSafetensors(header: unknown, data: Uint8Array, claimedLength?: number): Buffer {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(BigInt(claimedLength ?? json.length))
  return Buffer.concat([prefix, json, data])
}

/** A well-formed file's bytes. */
export function safetensorsBytes(tensors: readonly TestTensor[], metadata?: Record<string, string>): Buffer {
  const header: Record<string, unknown> = metadata ? { __metadata__: metadata } : {}
  const parts: Uint8Array[] = []
  let end = 0
  for (const { name, dtype = 'F32', shape, data } of tensors) {
    const bytes = data ?? new Uint8Array(shape.reduce((product, n) => product * n, sizes[dtype] ?? 1))
    header[name] = { dtype, shape, data_offsets: [end, end + bytes.length] }
    end += bytes.length
    parts.push(bytes)
  }
  return rawSafetensors(header, Buffer.concat(parts))
}

export function writeSafetensors(
  file: string,
  tensors: readonly TestTensor[],
  metadata?: Record<string, string>,
): void {
  writeFileSync(file, safetensorsBytes(tensors, metadata))
}
