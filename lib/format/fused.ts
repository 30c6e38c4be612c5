import { FlrcError } from '../errors.js'
import { type FusedProjection, fusedProjections } from './projections.js'
import type { ModelConfig, TensorSource } from './types.js'

const inFile = ({ name, storedName }: TensorSource) => storedName ?? name

function malformed(file: string, tensor: string, problem: string): FlrcError {
  return new FlrcError('E_MODEL_FORMAT', `${file}: ${problem}`, { file, tensor })
}

/** The rows of each part as sources of their own. Rows of every type lie one after another, blocks included. */
function parts(source: TensorSource, { parts }: FusedProjection, suffix: string): TensorSource[] {
  const { file, offset, byteLength, shape } = source
  const storedName = inFile(source)
  const rows = parts.reduce((sum, { out }) => sum + out, 0)
  const expected = suffix === 'bias' ? [rows] : [rows, parts[0]?.in]
  if (`${shape}` !== `${expected}`) {
    const held = parts.map(({ kind, out }) => `${kind} (${out})`).join(', ')
    throw malformed(
      file,
      storedName,
      `${storedName} has shape [${shape.join(', ')}], expected [${expected.join(', ')}] for the rows of ${held}; its config is another model's or the file is damaged`,
    )
  }
  const rowBytes = byteLength / rows
  let begin = 0
  return parts.map(({ name, out }) => {
    const part = {
      ...source,
      name: `${name}.${suffix}`,
      storedName,
      offset: offset + begin * rowBytes,
      byteLength: out * rowBytes,
      shape: [out, ...shape.slice(1)],
    }
    begin += out
    return part
  })
}

/** `model.layers.0.mlp.up_proj.P.0` -> `model.layers.0.mlp.up_proj` */
const projectionOf = (name: string) => /^.*_proj(?=\.)/.exec(name)?.[0] ?? name

/**
 * The model's tensors by their own names: of a fused one, every projection's rows. `path` is the model's, for errors where no
 * file can be named. Throws E_MODEL_FORMAT for fused tensors of another shape, that are missing, or that hold what the
 * files hold alone as well, and for two tensors whose names in the files mean the same.
 */
export function separated(
  stored: readonly TensorSource[],
  config: ModelConfig,
  path: string,
): Map<string, TensorSource> {
  const all = fusedProjections(config)
  const byName = new Map(all.map((fused) => [fused.name, fused]))
  const sources = new Map<string, TensorSource>()
  const cut: TensorSource[] = []
  const seen = new Map<string, TensorSource>()
  for (const source of stored) {
    const other = seen.get(source.name)
    if (other) {
      const names = `${inFile(other)} and ${inFile(source)}`
      const problem = `${names} are both ${source.name}; download the model again`
      throw malformed(source.file, inFile(source), problem)
    }
    seen.set(source.name, source)
    const [, base = '', suffix = ''] = /^(.*)\.(\w+)$/.exec(source.name) ?? []
    const fused = byName.get(base)
    if (fused) cut.push(...parts(source, fused, suffix))
    else sources.set(source.name, source)
  }
  const alone = new Set([...sources.keys()].map(projectionOf))
  for (const part of cut) {
    if (alone.has(projectionOf(part.name))) {
      const tensor = inFile(part)
      throw malformed(
        part.file,
        tensor,
        `${tensor} holds ${projectionOf(part.name)}, which is there on its own too; download the model again`,
      )
    }
    sources.set(part.name, part)
  }
  const found = new Set([...sources.keys()].map(projectionOf))
  for (const { name, parts } of all) {
    if (parts.some((part) => found.has(part.name))) continue
    throw malformed(
      stored[0]?.file ?? path,
      `${name}.weight`,
      `tensor ${name}.weight is missing; the model is incomplete or its config is another model's`,
    )
  }
  return sources
}
