/**
 * Factorising all projections of a model, bare and whitened, all ranks by symmetric eigenproblems and a quarter of them
 * by randomised SVD, in turn: `npm run bench -- factorize MODEL FILE [ROUNDS]`. The file gives the moments that whiten
 * them, of one window of 512 tokens: how many tokens there were makes no difference to the time.
 * bench/numpy_factorize.py times LAPACK's gesdd on the bare matrices. Prints one JSON line.
 */
import { readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { Model } from 'flrc'
import { medianOf } from '#lib/statistics/median.js'

const [source, file, count = '3'] = process.argv.slice(2)
if (source === undefined || file === undefined) {
  console.log('skipped: usage is npm run bench -- factorize MODEL FILE [ROUNDS]')
  process.exit(0)
}
const model = await Model.load(source, { dtype: 'f32' })
const window = model.tokenizer.encode(await readFile(file, 'utf8')).slice(0, 512)
const quarter = Math.floor(model.config.hiddenSize / 4)

type Whitening = 'none' | 'two-sided'

async function seconds(whitening: Whitening, randomisedRank: number): Promise<number> {
  const { figures, handle } = await model.calibrate(
    {
      ...{ tokens: Int32Array.from(window), lengths: Int32Array.of(window.length), labels: 'model', seed: 0 },
      ...{ whitening, curves: false, jitter: 1e-8, shrinkage: { inputs: 0, gradients: 0 } },
      ...{ memory: 8e9, scratch: tmpdir(), randomisedRank, keepInputMoments: false },
    },
    {},
  )
  handle.dispose()
  return figures.seconds.factorize
}

const timings = (['none', 'two-sided'] as const).flatMap((whitening) =>
  [0, quarter].map((ranks) => ({ whitening, ranks, seconds: [] as number[] })),
)
await seconds('none', 0)
for (let round = 0; round < Number(count); ++round) {
  for (const timing of timings) timing.seconds.push(await seconds(timing.whitening, timing.ranks))
}
console.log(
  JSON.stringify({
    ...{ matrices: model.projections.length, rounds: Number(count) },
    timings: timings.map(({ whitening, ranks, seconds: times }) => ({
      ...{ whitening, ranks: ranks === 0 ? 'all' : ranks, seconds: medianOf(times) },
      spread: [Math.min(...times), Math.max(...times)],
    })),
  }),
)
model.dispose()
