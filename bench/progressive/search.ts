/** ASVD's sensitivity search takes an hour of a small model, so it is made once, by `flrc compress`, and read here. */
import path from 'node:path'
import type { Calibration, Sensitivity } from 'flrc'
import { readPlan } from '#lib/checkpoint/read-plan.js'
import { FlrcError } from '#lib/errors.js'

export interface StoredSearch {
  directory: string
  storage: Sensitivity['storage']
  ratios: readonly number[]
  windows: number
  seqLen: number
  /** By projection. */
  losses: Readonly<Record<string, readonly number[]>>
}

/**
 * The search that a checkpoint of method `asvd` keeps in its plan. E_USAGE where it keeps none of pivoted blocks, or
 * one of another model than that of the hash.
 */
export async function readSearch(directory: string, modelSha256: string): Promise<StoredSearch> {
  const { sensitivity, storage, options, model } = (await readPlan(directory)) ?? {}
  const refuse = (why: string) =>
    new FlrcError(
      'E_USAGE',
      `${path.join(directory, 'flrc-plan.json')} ${why}; make one with flrc compress --method asvd`,
      { file: directory },
    )
  if (sensitivity === undefined || storage !== 'pivoted') {
    throw refuse('has no sensitivity search of pivoted blocks')
  }
  if (model?.sha256 !== modelSha256) throw refuse('has the sensitivity search of another model')
  return { directory, storage, seqLen: Number(options?.seqLen), ...sensitivity }
}

/** The same as the calibration's own search would have found it. E_USAGE for another model's. */
export function searchOf(
  { directory, losses, seqLen, ...stored }: StoredSearch,
  { model }: Calibration,
): Sensitivity {
  const projections = model.projections.map(({ name }) => {
    const found = losses[name]
    if (found?.length === stored.ratios.length) return { name, losses: Float64Array.from(found), seconds: 0 }
    throw new FlrcError('E_USAGE', `the search of ${directory} does not know ${name}; make one of this model`, {
      ...{ file: directory, tensor: name },
    })
  })
  return { ...stored, projections, tokens: stored.windows * seqLen, seconds: 0 }
}
