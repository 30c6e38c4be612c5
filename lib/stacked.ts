import { FlrcError } from './errors.js'
import type { ModelConfig } from './format/types.js'
import type { LoadedModel, ModelParts } from './model.js'

/**
 * A model whose levels come from two that share no weights: those of `top`, and behind them those of `below`, which ends
 * with it. A generation goes on from one to the other with the cache that it has. E_USAGE where caches or vocabularies
 * differ in shape, where budgets do not fall from one to the other, and on a GPU.
 */
export function stacked(top: ModelParts, below: LoadedModel): ModelParts {
  const refuse = (why: string) =>
    new FlrcError(
      'E_USAGE',
      `the levels of ${below.source.path} cannot follow those of ${top.source.path}: ${why}`,
    )
  if (cacheShape(top.source.config, top.dtype) !== cacheShape(below.config, below.dtype)) {
    throw refuse('one cannot go on with what the other has cached; give two of one model')
  }
  if (top.plugin !== undefined || below.plugin !== undefined) {
    throw refuse('a cache goes from one model to another on the CPU only; load both with device cpu')
  }
  if (below.isStacked) throw refuse('it has another below it; give one checkpoint')
  const [{ budget = 1 } = {}] = below.levels
  const above = top.source.flrc?.levels.at(-1)?.budget ?? 1
  if (budget >= above)
    throw refuse(`its budget ${budget.toFixed(4)} is not below ${above.toFixed(4)}; give a smaller one`)
  return { ...top, below }
}

function cacheShape({ layers, kvHeads, headDim, vocabSize }: ModelConfig, dtype: string): string {
  return [layers, kvHeads, headDim, vocabSize, dtype === 'f32'].join()
}
