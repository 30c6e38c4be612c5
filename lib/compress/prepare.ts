import { type CalibrateOptions, Calibration, calibrateOn, type MadeWindows } from '../calibrate.js'
import type { LoadedModel, TaskOptions } from '../model.js'
import { byCurves, byShare, type NarrowedModel, withoutChannels } from './channels.js'
import { windowPerplexity } from './held-out.js'
import type { AllocateOptions, CompressOptions } from './options.js'
import { checkRanks } from './ranks.js'
import { optionsAt } from './solve.js'

/** What a model is cut from. */
export interface Prepared {
  calibration: Calibration
  /** Where channels were dropped, the model that was calibrated, and the seconds until it was there. */
  narrowed?: NarrowedModel & { seconds: number }
  /** Frees what was made on the way to it. */
  release(): void
}

/**
 * Calibrates on windows, unless a calibration is given; drops channels first where that is asked for, and calibrates
 * what is left. Channels that `auto` would drop stay where a target of perplexity is beyond reach without them. Errors
 * as of `calibrate`, `withoutChannels` and `byCurves`, and E_USAGE where what is left cannot have the ranks asked for.
 */
export async function prepare(
  model: LoadedModel,
  from: Calibration | MadeWindows,
  calibrates: CalibrateOptions,
  options: AllocateOptions & Pick<CompressOptions, 'dropChannels'> & TaskOptions,
): Promise<Prepared> {
  const { dropChannels: drop = 0 } = options
  const begin = performance.now()
  const given = from instanceof Calibration ? from : undefined
  const made = from instanceof Calibration ? windowsOf(from) : from
  let own: Calibration | undefined
  let narrowed: NarrowedModel | undefined
  const release = () => {
    own?.dispose()
    narrowed?.model.dispose()
  }
  try {
    const choosesByCurves = drop === 'auto'
    if (given === undefined && (choosesByCurves || drop === 0)) {
      own = await calibrateOn(model, made, { ...calibrates, curves: choosesByCurves || calibrates.curves })
    }
    let whole = given ?? own
    if (drop !== 0) {
      const choose = choosesByCurves ? await byCurves(whole as Calibration, options) : byShare(model, drop)
      narrowed = await withoutChannels(model, made.windows, choose, calibrates)
      if (narrowed && choosesByCurves && !(await meetsTarget(narrowed.model, whole as Calibration, options))) {
        narrowed.model.dispose()
        narrowed = undefined
      }
    }
    if (narrowed === undefined) {
      if (whole === undefined) {
        own = await calibrateOn(model, made, calibrates)
        whole = own
      }
      return { calibration: whole, release }
    }
    const seconds = (performance.now() - begin) / 1000
    checkRanks(narrowed.model, optionsAt(narrowed.model, options, options.keep ?? 1))
    // Of no more use, and the next one wants the memory.
    own?.dispose()
    own = await calibrateOn(narrowed.model, made, calibrates, model)
    return { calibration: own, narrowed: { ...narrowed, seconds }, release }
  } catch (error) {
    release()
    throw error
  }
}

/** Whether a model without some channels, nothing else being cut, is within the target of perplexity, where there is one. */
async function meetsTarget(
  narrow: LoadedModel,
  { whole, heldOut }: Calibration,
  { targetPerplexityIncrease: target, ...task }: AllocateOptions & TaskOptions,
): Promise<boolean> {
  if (target === undefined) return true
  const dense = await windowPerplexity(whole, heldOut, 0, task)
  return (await windowPerplexity(narrow, heldOut, 0, task)) / dense - 1 <= target
}

function windowsOf({ windows, heldOut, sources, hashes }: Calibration): MadeWindows {
  return {
    windows: [...windows],
    heldOut: [...heldOut],
    sources: [...sources],
    sha256: hashes.calibration,
    seconds: 0,
  }
}
