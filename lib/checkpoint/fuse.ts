import { FlrcError } from '../errors.js'
import { fusedProjections } from '../format/projections.js'
import type { HeaderEntry } from '../format/safetensors.js'
import type { ModelConfig } from '../format/types.js'
import type { WriteTensors } from './weights.js'

/** Tensors to be written, and what writes them. */
export interface Writable {
  entries: readonly HeaderEntry[]
  writeTensors: WriteTensors
}

/**
 * The tensors as the architecture's own files have them: its fused projections as one tensor, in the first one's place. The
 * bytes of each part go to where its rows lie. Throws E_INTERNAL for parts that do not fit each other.
 */
export function fused({ entries, writeTensors }: Writable, config: ModelConfig): Writable {
  const wholes = new Map<string, string>()
  for (const { name, parts } of fusedProjections(config)) {
    for (const part of parts) {
      for (const suffix of ['weight', 'bias']) wholes.set(`${part.name}.${suffix}`, `${name}.${suffix}`)
    }
  }
  const together = new Map<string, HeaderEntry[]>()
  for (const entry of entries) {
    const whole = wholes.get(entry.name) ?? entry.name
    const parts = together.get(whole)
    if (parts) parts.push(entry)
    else together.set(whole, [entry])
  }
  return {
    entries: [...together].map(([name, parts]) => oneAfterAnother(name, parts)),
    writeTensors: (file, names, offsets) => {
      const places = names.flatMap((name, i) => {
        let at = offsets[i] ?? 0
        return (together.get(name) ?? []).map((part) => {
          const place = { name: part.name, at }
          at += part.byteLength
          return place
        })
      })
      return writeTensors(
        file,
        places.map((place) => place.name),
        Float64Array.from(places, ({ at }) => at),
      )
    },
  }
}

function oneAfterAnother(name: string, parts: readonly HeaderEntry[]): HeaderEntry {
  const [first, ...others] = parts
  if (first && others.length === 0) return first
  const fits = (part: HeaderEntry) =>
    part.type === first?.type && `${part.shape.slice(1)}` === `${first.shape.slice(1)}`
  if (!first || !others.every(fits)) {
    throw new FlrcError('E_INTERNAL', `cannot write ${name}: its parts do not fit; report this as a bug`, {
      tensor: name,
    })
  }
  const rows = parts.reduce((sum, { shape }) => sum + (shape[0] ?? 0), 0)
  return {
    name,
    type: first.type,
    shape: [rows, ...first.shape.slice(1)],
    byteLength: parts.reduce((sum, { byteLength }) => sum + byteLength, 0),
  }
}
