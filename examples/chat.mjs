// Talks to a model in the terminal; an empty line ends it:
//   node examples/chat.mjs [MODEL]
import { createInterface } from 'node:readline/promises'
import { fileURLToPath } from 'node:url'
import { Model } from 'flrc'

const path = process.argv[2] ?? fileURLToPath(new URL('../models/tiny', import.meta.url))
const model = await Model.load(path)
const terminal = createInterface({ input: process.stdin, output: process.stdout, prompt: '> ' })
// Where the input is a file it may end while the model still writes.
let open = true
terminal.once('close', () => {
  open = false
})
try {
  const chat = model.chat()
  terminal.prompt()
  for await (const line of terminal) {
    if (line.trim() === '') break
    for await (const piece of chat.send(line, { maxTokens: 64, temperature: 0.7, minP: 0.05 })) {
      process.stdout.write(piece.text)
    }
    process.stdout.write('\n')
    if (open) terminal.prompt()
  }
} finally {
  terminal.close()
  model.dispose()
}
