import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import path from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type Ended, root, runModule } from './support/child.js'

const emulatedPlugin = 'build/cuda-tests/flrc_cuda.so'

/** What every child begins with. */
const prelude = `
  import assert from 'node:assert/strict'
  import { readFileSync } from 'node:fs'
  import { setTimeout as sleep } from 'node:timers/promises'
  import { Model, calibrate, compress } from '#lib/index.js'
  import { complete } from '#lib/generate.js'
  const text = readFileSync('models/tiny/calibration.txt', 'utf8')
  const prompt = 'Once upon a time there was a king who'
  const load = () => Model.load('models/tiny')
`

async function child(source: string, options: Parameters<typeof runModule>[1] = {}): Promise<Ended> {
  const ended = await runModule(prelude + source, options)
  assert.is(ended.signal, null, `killed by ${ended.signal}: ${ended.stderr}`)
  assert.is(ended.code, 0, ended.stderr)
  return ended
}

test('the process may end in the middle of a generation', async () => {
  const { stdout } = await child(`
    const model = await load()
    const pieces = model.generate(prompt, { maxTokens: 400 })
    await pieces.next()
    void pieces.next()
    process.stdout.write('leaving')
    process.exit(0)
  `)
  assert.is(stdout, 'leaving')
})

test('the process may end in the middle of a calibration, at any moment, and does not wait for it', async () => {
  // What goes wrong here goes wrong now and then, so it is tried at several moments.
  for (const delay of [200, 400, 500, 600, 700, 800, 900, 1000]) {
    const { seconds } = await child(`
      const model = await Model.load('models/tiny', { dtype: 'f32' })
      void calibrate(model, { calibration: [text] })
      await sleep(${delay})
      process.exit(0)
    `)
    assert.ok(seconds < 10, `took ${seconds} s`)
  }
})

test('the process may end in the middle of what an emulated GPU does', async () => {
  if (process.platform !== 'linux' || !existsSync(path.join(root, emulatedPlugin))) {
    console.log(`skipped: ${emulatedPlugin} is not built, or not for this system`)
    return
  }
  const env = { ...process.env, FLRC_BACKEND_PATH: emulatedPlugin }
  for (const call of ['model.generate(prompt.repeat(8)).next()', 'calibrate(model, { calibration: [text] })']) {
    const { seconds } = await child(
      `
      const model = await Model.load('models/tiny', { device: 'cuda' })
      void ${call}
      await sleep(500)
      process.exit(0)
    `,
      { env },
    )
    assert.ok(seconds < 30, `took ${seconds} s`)
  }
})

test('where the system refuses a thread, the call says so and the process ends', async () => {
  if (spawnSync('prlimit', ['--version']).status !== 0) {
    console.log('skipped: there is no prlimit to refuse threads with')
    return
  }
  const { seconds } = await child(`
    import { spawnSync } from 'node:child_process'
    import { stat } from 'node:fs/promises'
    import { binding } from '#lib/binding.js'
    const native = binding()
    await stat('.') // Node's own threads are there from now on.
    assert.equal(spawnSync('prlimit', ['--pid', process.pid, '--nproc=1:1']).status, 0)
    // Of root the system refuses nothing.
    if (process.getuid() === 0) process.setuid(65534)
    const refused = { code: 'E_OUT_OF_MEMORY', message: /refuses another thread.*ulimit -u/ }
    for (let call = 0; call < 2; call++) await assert.rejects(native.readBandwidth(2 ** 20, 1).promise, refused)
  `)
  assert.ok(seconds < 30, `took ${seconds} s`)
})

test('dispose ends a generation with E_ABORTED and later calls with E_DISPOSED', async () => {
  await child(`
    const model = await load()
    const pieces = model.generate(prompt, { maxTokens: 400 })
    await pieces.next()
    const pending = pieces.next()
    model.dispose()
    model.dispose()
    await assert.rejects(pending, { code: 'E_ABORTED' })
    assert.deepEqual(await pieces.next(), { done: true, value: undefined })
    await assert.rejects(model.generate(prompt).next(), { code: 'E_DISPOSED' })
    await assert.rejects(calibrate(model, { calibration: [text] }), { code: 'E_DISPOSED' })
    assert.throws(() => model.tensorEntries(false), { code: 'E_DISPOSED' })
  `)
})

test('an abort rejects within 100 ms, in prefill, in decoding and in calibration', async () => {
  await child(`
    const model = await load()
    const tokens = Array.from({ length: 400 }, (_, i) => 3 + i)
    const timed = async (start) => {
      const controller = new AbortController()
      const pending = start(controller.signal)
      await sleep(20)
      const begin = performance.now()
      controller.abort()
      await assert.rejects(pending, { code: 'E_ABORTED' })
      const ms = performance.now() - begin
      assert.ok(ms < 100, 'took ' + ms + ' ms')
    }
    await timed((signal) => complete(model.generate(tokens, { signal, maxTokens: 100 })))
    await timed((signal) => complete(model.generate(prompt, { signal, maxTokens: 400 })))
    await timed((signal) => calibrate(model, { calibration: [text], signal }))
    await timed((signal) => compress(model, { keep: 0.8, calibration: [text], signal }))
    await assert.rejects(model.generate(prompt, { signal: AbortSignal.abort() }).next(), { code: 'E_ABORTED' })
    assert.equal((await complete(model.generate(prompt, { maxTokens: 3 }))).tokenIds.length, 3)
  `)
})

test('leaving the iterator stops the work and frees the session', async () => {
  await child(`
    const model = await load()
    let seen = 0
    for await (const piece of model.generate(prompt, { maxTokens: 400 })) {
      if (++seen === 3) break
    }
    assert.equal(seen, 3)
    const long = model.generate(Array.from({ length: 400 }, (_, i) => 3 + i), { maxTokens: 4 })
    const pending = long.next()
    const begin = performance.now()
    assert.deepEqual(await long.return(), { done: true, value: undefined })
    assert.ok(performance.now() - begin < 100)
    assert.deepEqual(await pending, { done: true, value: undefined })
  `)
})

test('overlapping generations give what serial ones give', async () => {
  await child(`
    const model = await load()
    const prompts = [prompt, 'The king', 'KING RICHARD:', 'My lord, I']
    const run = (text, seed) =>
      complete(model.generate(text, { maxTokens: 40, temperature: seed ? 0.9 : 0, seed })).then((c) => c.tokenIds)
    const serial = []
    for (const [seed, text] of prompts.entries()) serial.push(await run(text, seed))
    const overlapping = await Promise.all(prompts.map((text, seed) => run(text, seed)))
    assert.deepEqual(overlapping, serial)
    assert.notDeepEqual(serial[0], serial[1])
  `)
})

test('a worker thread that loaded the addon may be terminated in the middle of compress', async () => {
  await child(
    `
    import { Worker } from 'node:worker_threads'
    const source = ${JSON.stringify(`${prelude}
      import { parentPort } from 'node:worker_threads'
      const model = await load()
      const heard = new Set()
      await compress(model, { keep: 0.8, calibration: [text], onProgress: ({ stage }) => {
        if (!heard.has(stage)) parentPort.postMessage(stage)
        heard.add(stage)
      } })
    `)}
    // A worker's text is CommonJS and has no file of its own, so imports go through a data URL's loader.
    const begin = () => new Worker('import(' + JSON.stringify('data:text/javascript,' +
      encodeURIComponent(source.replaceAll('#lib/', new URL('dist/', 'file://' + process.cwd() + '/').href))) + ')', { eval: true })
    for (let run = 0; run < 3; run++) {
      const worker = begin()
      const failed = new Promise((_, reject) => worker.on('error', reject))
      await Promise.race([failed, new Promise((resolve) => worker.on('message', resolve))])
      await sleep(run * 40)
      await worker.terminate()
    }
    await sleep(200)
  `,
  )
})

test('a model that is dropped gives its memory back', async () => {
  await child(
    `
    const rss = () => process.memoryUsage().rss / 1e6
    const use = async () => {
      const model = await Model.load('models/tiny', { dtype: 'f32' })
      await complete(model.generate(prompt, { maxTokens: 2 }))
      const left = model.generate(prompt, { maxTokens: 400 })
      await left.next()
    }
    const collect = async () => {
      for (let i = 0; i < 4; i++) {
        gc()
        await sleep(5)
      }
    }
    const rounds = async (count) => {
      for (let i = 0; i < count; i++) await use()
      await collect()
    }
    await rounds(10)
    const before = rss()
    await rounds(60)
    const grown = rss() - before
    // 60 models of 7.6 MB each would be 455; the allocator's own holes are some 100.
    assert.ok(grown < 200, 'grew by ' + grown + ' MB')
  `,
    { nodeArgs: ['--expose-gc'] },
  )
})

test.run()
