/**
 * The first pass of calibration (forward, backward, Fisher scores, moments) in tokens per second:
 * `npm run bench -- calibration MODEL FILE [SEQUENCES]`. bench/pytorch_calibration.py times PyTorch's forward and
 * backward with weight gradients of the same shape on the same machine. Prints one JSON line.
 */
import { readFile } from 'node:fs/promises'
import { calibrate, Model } from 'flrc'

const [source, file, count = '8'] = process.argv.slice(2)
if (source === undefined || file === undefined) {
  console.log('skipped: usage is npm run bench -- calibration MODEL FILE [SEQUENCES]')
  process.exit(0)
}
const sequences = Number(count)
const seqLen = 512
const model = await Model.load(source, { dtype: 'f32' })
const calibration = await calibrate(model, {
  calibration: [await readFile(file, 'utf8')],
  samples: sequences,
  seqLen,
  curves: false,
})
const { forward, backward, moments, factorize } = calibration.figures.seconds
const seconds = forward + backward + moments
console.log(
  JSON.stringify({
    sequences,
    seqLen,
    seconds,
    tokensPerSecond: (sequences * seqLen) / seconds,
    parts: { forward, backward, moments },
    factorizeSeconds: factorize,
    peakBytes: calibration.figures.peakBytes,
  }),
)
calibration.dispose()
model.dispose()
