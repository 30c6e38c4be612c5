import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { type ChildOptions, type Ended, runCli, tinyModel } from './support/child.js'

/** Runs `flrc serve`, does something while it listens, and interrupts it. */
async function serving(
  args: readonly string[],
  run: (url: string) => Promise<unknown>,
  { signal = 'SIGINT', ...options }: ChildOptions & { signal?: NodeJS.Signals } = {},
): Promise<Ended> {
  let running: Promise<unknown> = Promise.resolve()
  const onStart = (child: ChildProcess) => {
    child.stdout?.once('data', (line: Buffer) => {
      const [, url = ''] = /(http:\/\/[\d.:]+)/.exec(line.toString()) ?? []
      running = run(url).finally(() => child.kill(signal))
    })
  }
  const ended = await runCli(['serve', tinyModel, '--port', '0', ...args], { ...options, onStart })
  await running
  return ended
}

const post = (url: string, body: object, headers: Record<string, string> = {}) =>
  fetch(`${url}/v1/completions`, {
    method: 'POST',
    body: JSON.stringify(body),
    headers: { 'content-type': 'application/json', ...headers },
  })

const running = suite('flrc serve')

running('says where it listens, notes every request on a line, and ends when interrupted', async () => {
  const args = ['--json', '--schedule', 'constant:1', '--parallel', '1']
  const { code, stdout, stderr } = await serving(args, async (url) => {
    const answer = await post(url, { prompt: 'Once upon a time', max_tokens: 4 })
    const { flrc } = (await answer.json()) as { flrc: { schedule: string } }
    assert.is(flrc.schedule, 'constant:1')
    await (await fetch(`${url}/nowhere/\x9b31m?once=upon`)).text()
  })
  assert.is(code, 130, stderr)
  const document = JSON.parse(stdout) as Record<string, string>
  assert.equal(Object.keys(document), ['url', 'model'])
  assert.is(document.model, 'tiny')
  assert.match(stderr, /^POST \/v1\/completions 200, 5 \+ 4 tokens, \d+\.\d{3} s$/m)
  assert.match(stderr, /^GET \/nowhere\/%C2%9B31m 404, \d+\.\d{3} s$/m)
  assert.match(stderr, /^note: the model has one level/m)
  assert.not.match(stderr, /once/i, 'no word of a prompt')
})

running('ends in the midst of an answer, also when it is terminated', async () => {
  for (const [signal, expected] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const) {
    let answers: Promise<string>[] = []
    // One after another, they take long enough to be ended in the midst. Some may not be there yet, and are cut off.
    const begin = async (url: string) => {
      const asked = Array.from({ length: 12 }, () =>
        post(url, { prompt: 'Once', temperature: 0, stream: true }),
      )
      answers = asked.map((answer) => answer.then((response) => response.text()).catch(() => 'cut off'))
      await Promise.race(asked)
    }
    const { code, stdout, seconds } = await serving(['--parallel', '1'], begin, { signal })
    assert.is(code, expected)
    const texts = await Promise.all(answers)
    assert.ok(texts.some((text) => text.includes('"code":"E_ABORTED"')))
    assert.match(stdout, /^tiny at http:\/\/127\.0\.0\.1:\d+\/v1\n$/)
    assert.ok(seconds < 20)
  }
})

running('a key comes from the environment too', async () => {
  const env = { ...process.env, FLRC_API_KEY: 'secret' }
  const { code, stderr, stdout } = await serving(
    ['--host', '0.0.0.0'],
    async (url) => {
      assert.is((await post(url, { prompt: 'Once', max_tokens: 1 })).status, 401)
      const answer = await post(url, { prompt: 'Once', max_tokens: 1 }, { authorization: 'Bearer secret' })
      assert.is(answer.status, 200)
    },
    { env },
  )
  assert.is(code, 130, stderr)
  assert.not.match(stdout + stderr, /secret|whoever reaches/)
  const open = await serving(['--host', '0.0.0.0'], async () => undefined)
  assert.match(open.stderr, /^note: whoever reaches this machine may use the model; --api-key/m)
  const local = await serving(['--host', '127.1'], async () => undefined)
  assert.not.match(local.stderr, /whoever reaches/)
})

running('wrong usage is found before the model is loaded, a taken port when it listens', async () => {
  for (const args of [
    ['--port', '70000'],
    ['--parallel', '0'],
    ['--cache', 'much'],
    ['--api-key', ''],
    ['--schedule', 'half'],
    ['--cors', '*'],
  ]) {
    const ended = await runCli(['serve', 'nowhere', ...args])
    assert.is(ended.code, 2, ended.stderr)
    assert.match(ended.stderr, /flrc: E_USAGE: /)
  }
  const other = createServer().listen(0, '127.0.0.1')
  await once(other, 'listening')
  try {
    const { port } = other.address() as AddressInfo
    const ended = await runCli(['serve', tinyModel, '--port', String(port), '--json'])
    assert.is(ended.code, 1)
    assert.match(ended.stderr, new RegExp(`flrc: E_IO: 127\\.0\\.0\\.1, port ${port}: something listens there`))
    assert.is((JSON.parse(ended.stdout) as { error: { code: string } }).error.code, 'E_IO')
  } finally {
    other.close()
  }
})

running.run()
