// Compresses a model and decodes with a rank that falls as it goes:
//   node examples/compress.mjs [MODEL] [CALIBRATION.txt]
// Without arguments it takes the model that comes with the package.
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { compress, evaluate, Model, progressive } from 'flrc'

const tiny = fileURLToPath(new URL('../models/tiny', import.meta.url))
const [source = tiny, calibrationFile = path.join(tiny, 'calibration.txt')] = process.argv.slice(2)
const text = await readFile(calibrationFile, 'utf8')

const model = await Model.load(source)
try {
  const small = await compress(model, {
    keep: 0.9,
    levels: [0.9, 0.8, 0.7],
    calibration: [text],
    samples: 32,
    onProgress: ({ stage, done, total }) => process.stderr.write(`\r${stage} ${done}/${total}   `),
  })
  try {
    process.stderr.write('\n')
    for (const [name, measured] of Object.entries({ dense: model, compressed: small })) {
      const { perplexity } = await evaluate.perplexity(measured, text, { seqLen: 256, windows: 16 })
      console.log(`${name}: ${(measured.storedBytes / 1e6).toFixed(2)} MB, perplexity ${perplexity.toFixed(2)}`)
    }
    const prompt = 'Once upon a time'
    const schedule = progressive({ from: 0.9, to: 0.7, over: 32 })
    process.stdout.write(prompt)
    for await (const piece of small.generate(prompt, { maxTokens: 48, schedule })) {
      process.stdout.write(piece.text)
    }
    process.stdout.write('\n')
  } finally {
    small.dispose()
  }
} finally {
  model.dispose()
}
