import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { readBytes } from '#lib/format/files.js'
import { projectionNames } from '#lib/format/projections.js'
import { readSafetensors } from '#lib/format/safetensors.js'
import { openModelSource } from '#lib/model-source.js'
import { tinyModel } from './child.js'
import { type TestTensor, writeSafetensors } from './safetensors-writer.js'

/** The first rows and columns of a bf16 matrix [rows, columns]. */
function corner(bytes: Uint8Array, columns: number, rows: number, kept: number): Uint8Array {
  const to = new Uint8Array(rows * kept * 2)
  for (let r = 0; r < rows; r++) {
    to.set(bytes.subarray(r * columns * 2, (r * columns + kept) * 2), r * kept * 2)
  }
  return to
}

/**
 * Writes models/tiny as a checkpoint of dense projections whose layers keep the first channels of their MLPs.
 * `change` makes another `flrc` object of the right one.
 */
export async function narrowCheckpoint(
  directory: string,
  intermediateSizes: number[],
  change: (flrc: Record<string, unknown>) => unknown = (flrc) => flrc,
): Promise<string> {
  mkdirSync(directory, { recursive: true })
  for (const name of ['tokenizer.json', 'tokenizer_config.json']) {
    copyFileSync(join(tinyModel, name), join(directory, name))
  }
  const { config } = await openModelSource(tinyModel)
  const projections = projectionNames({ ...config, intermediateSizes })
  const shapes = new Map(projections.map(({ name, out, in: width }) => [`${name}.weight`, [out, width]]))
  const { tensors } = await readSafetensors(join(tinyModel, 'model.safetensors'))
  const kept: TestTensor[] = []
  for (const { name, file, offset, byteLength, dtype, shape } of tensors.values()) {
    const bytes = await readBytes(file, offset, byteLength)
    const [rows, columns] = shapes.get(name) ?? []
    if (rows === undefined || columns === undefined) kept.push({ name, dtype, shape, data: bytes })
    else kept.push({ name, dtype, shape: [rows, columns], data: corner(bytes, shape[1] ?? 0, rows, columns) })
  }
  writeSafetensors(join(directory, 'model.safetensors'), kept)
  const share = parameters(projections) / parameters(projectionNames(config))
  const flrc = {
    version: 2,
    keep: share,
    levels: [{ budget: share, ranks: Object.fromEntries(projections.map(({ name }) => [name, 'dense'])) }],
    dtype: 'bf16',
    storage: 'pivoted',
    intermediateSizes,
    source: JSON.parse(readFileSync(join(tinyModel, 'config.json'), 'utf8')) as unknown,
  }
  writeFileSync(join(directory, 'config.json'), JSON.stringify({ model_type: 'flrc', flrc: change(flrc) }))
  return directory
}

function parameters(projections: readonly { out: number; in: number }[]): number {
  return projections.reduce((sum, { out, in: width }) => sum + out * width, 0)
}
