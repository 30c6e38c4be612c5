// Serves a model as OpenAI's API does, and asks it something:
//   node examples/serve.mjs [MODEL] [MESSAGE]
import { fileURLToPath } from 'node:url'
import { Model, serve } from 'flrc'

const tiny = fileURLToPath(new URL('../models/tiny', import.meta.url))
const [path = tiny, content = 'Continue this text.'] = process.argv.slice(2)
const model = await Model.load(path)
const server = await serve(model, { port: 0 })
try {
  console.error(`${server.model} at ${server.url}/v1`)
  const response = await fetch(`${server.url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ messages: [{ role: 'user', content }], max_tokens: 48 }),
  })
  const { choices, usage, flrc } = await response.json()
  console.log(choices[0].message.content)
  console.error(`${usage.completion_tokens} tokens, ${flrc.tokensPerSecond.toFixed(1)} a second`)
} finally {
  await server.close()
  model.dispose()
}
