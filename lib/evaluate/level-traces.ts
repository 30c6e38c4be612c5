import type { LoadedModel } from '../model.js'
import type { LevelTrace } from '../schedule/search.js'
import { type ForcedOptions, runForced } from './forced.js'
import type { Prompt } from './prompts.js'

/** Runs a model along its reference's tokens as `runForced` does, with each of its levels kept from step 1 on. */
export async function levelTraces(
  model: LoadedModel,
  reference: LoadedModel,
  prompts: readonly Prompt[],
  options: ForcedOptions,
): Promise<LevelTrace[]> {
  const schedules = model.levels.map(
    ({ budget }) =>
      () =>
        budget,
  )
  const runs = await runForced(model, reference, prompts, schedules, options)
  return runs.map((byLevel) => ({
    kl: byLevel.map(({ kl }) => kl),
    entropy: byLevel.map(({ entropy }) => entropy),
  }))
}
