/**
 * The first pass of calibration (forward, backward, Fisher scores, moments) in tokens per second:
 * `npm run bench -- calibration MODEL FILE [SEQUENCES] [DTYPE]`, held in bf16 unless told otherwise.
 * bench/pytorch_calibration.py times PyTorch's forward and backward with weight gradients of the same shape on the same
 * machine. Prints one JSON line. The share is that of the rate at which sgemm multiplies squares in f32 on as many
 * threads, just before and just after.
 */
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { calibrate, Model, type StorageDtype } from 'flrc'
import { packageRoot } from '#lib/binding.js'
import { medianOf } from '#lib/statistics/median.js'
import { outputOf } from './support/child.js'

const [source, file, count = '8', dtype = 'bf16'] = process.argv.slice(2)
if (source === undefined || file === undefined) {
  console.log('skipped: usage is npm run bench -- calibration MODEL FILE [SEQUENCES] [DTYPE]')
  process.exit(0)
}
const sequences = Number(count)
const seqLen = 512
const model = await Model.load(source, { dtype: dtype as StorageDtype })
const before = await sgemm()
const calibration = await calibrate(model, {
  calibration: [await readFile(file, 'utf8')],
  samples: sequences,
  seqLen,
  curves: false,
})
const { forward, backward, moments, factorize } = calibration.figures.seconds
const seconds = forward + backward + moments
const peak = medianOf([...before, ...(await sgemm())])
const rate = (operations() * sequences) / (forward + backward) / 1e9
console.log(
  JSON.stringify({
    dtype,
    sequences,
    seqLen,
    seconds,
    tokensPerSecond: (sequences * seqLen) / seconds,
    parts: { forward, backward, moments },
    gflops: { passes: rate, sgemm: peak, share: rate / peak },
    factorizeSeconds: factorize,
    peakBytes: calibration.figures.peakBytes,
  }),
)
calibration.dispose()
model.dispose()

/** GFLOPS of several rounds. */
async function sgemm(): Promise<number[]> {
  const program = path.join(packageRoot, 'build/Release/flrc_bench')
  const output = await outputOf(program, ['sgemm', String(model.threads), '5'], 'sgemm')
  return (JSON.parse(output) as { gflops: number[] }).gflops
}

/**
 * Of a sequence's products in both passes, moments left out: every weight twice forward, as no layer's activations are
 * kept, once back to the inputs and once for its own gradient; the output head once and back; of attention below the
 * diagonal two products twice forward and five back.
 */
function operations(): number {
  const { hiddenSize, vocabSize, layers, heads, headDim } = model.config
  const weights = model.projections.reduce((sum, { rows, cols }) => sum + rows * cols, 0)
  const attention = (layers * heads * headDim * seqLen) / 2
  return 2 * seqLen * (4 * weights + 2 * hiddenSize * vocabSize + 9 * attention)
}
