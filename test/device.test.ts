// Where models compute, and what is said where a GPU is wanted and something is missing. Plugins and a driver's
// library are built from test/plugins.
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { root, runCli, runModule, runNode, tinyModel } from './support/child.js'

const devices = suite('devices')
const folder = mkdtempSync(path.join(tmpdir(), 'flrc-device-'))
const both = path.join(folder, 'both')
const counter = path.join(both, 'flrc_cuda.so')
const drivers = path.join(folder, 'drivers')

devices.before(() => {
  mkdirSync(both)
  mkdirSync(drivers)
  const plugin = ['test/plugins/fake_plugin.cc', 'cuda/runtime/driver.cc', 'cuda/runtime/libraries.cc']
  compile(plugin, counter, ['-DFAKE_SCORE=10'])
  compile(plugin, path.join(both, 'flrc_cuda_better.so'), ['-DFAKE_SCORE=20'])
  for (const library of ['libcuda.so.1', 'libcublasLt.so.13']) {
    compile(['test/plugins/fake_driver.cc'], path.join(drivers, library))
  }
})
devices.after(() => rmSync(folder, { recursive: true }))

function compile(sources: string[], output: string, options: string[] = []): void {
  const flags = ['-std=c++20', '-shared', '-fPIC', '-Inative', '-Icuda', ...options]
  const compiler = process.env.CXX ?? 'g++'
  const { status, stderr } = spawnSync(compiler, [...flags, ...sources, '-o', output], {
    cwd: root,
    encoding: 'utf8',
  })
  assert.is(status, 0, stderr)
}

/** What `generate --device` says with these variables set. */
async function generate(device: string, env: NodeJS.ProcessEnv) {
  const args = ['generate', tinyModel, '-p', 'Once', '--max-tokens', '3', '--device', device, '--json']
  const ended = await runCli(args, { env: { ...process.env, ...env } })
  const out = JSON.parse(ended.stdout) as {
    tokenIds?: number[]
    error?: { code: string; message: string; file?: string }
  }
  return { ...ended, ...out }
}

async function refuses(env: NodeJS.ProcessEnv, message: RegExp, file?: string): Promise<void> {
  const cuda = await generate('cuda', env)
  assert.is(cuda.code, 1)
  assert.is(cuda.error?.code, 'E_DEVICE')
  assert.match(cuda.error?.message ?? '', message)
  if (file !== undefined)
    assert.ok(cuda.error?.message.includes(file), `names the file: ${cuda.error?.message}`)
}

devices(
  'a plugin whose table does not fit is refused with the reason, and auto goes on with the CPU',
  async () => {
    const cpu = await generate('cpu', {})
    const reasons: [string, RegExp][] = [
      ['absent', /gives no table/],
      ['newer', /made for version 11 of the plugin interface, and this flrc for 10/],
      ['short', /table that is too short/],
      ['hole', /leaves out functions/],
      ['unfit', /this machine is not to its liking/],
      ['narrow', /takes no weights in bf16; use another dtype/],
    ]
    for (const [how, reason] of reasons) {
      const env = { FLRC_BACKEND_PATH: counter, FAKE_PLUGIN: how }
      await refuses(env, reason, counter)
      const auto = await generate('auto', env)
      assert.is(auto.code, 0, auto.stderr)
      assert.equal(auto.tokenIds, cpu.tokenIds)
    }
  },
)

devices('what is no plugin is refused by name', async () => {
  const text = path.join(folder, 'text.so')
  writeFileSync(text, 'not a library')
  await refuses({ FLRC_BACKEND_PATH: text }, /does not open/, text)
  await refuses({ FLRC_BACKEND_PATH: path.join(drivers, 'libcuda.so.1') }, /no plugin of flrc/)
  const nowhere = path.join(folder, 'nowhere')
  await refuses({ FLRC_BACKEND_PATH: nowhere }, /FLRC_BACKEND_PATH: there is no plugin at/, nowhere)
  const auto = await generate('auto', { FLRC_BACKEND_PATH: nowhere })
  assert.is(auto.error?.code, 'E_DEVICE')
})

devices('each part of a GPU that is missing is told apart', async () => {
  const env = { FLRC_BACKEND_PATH: counter, FAKE_PLUGIN: 'driver' }
  const driver = { ...env, LD_LIBRARY_PATH: drivers }
  const none = path.join(folder, 'none')
  mkdirSync(none)
  // An empty file of that name, so that a real driver of the machine is not found instead.
  writeFileSync(path.join(none, 'libcuda.so.1'), '')
  await refuses(
    { ...env, LD_LIBRARY_PATH: none },
    /there is no NVIDIA driver.*install NVIDIA's driver for CUDA 13\.0/,
  )
  await refuses(
    { ...driver, FAKE_CUDA_VERSION: '12080' },
    /driver is too old: it serves CUDA 12\.8.*needs 13\.0/,
  )
  await refuses({ ...driver, FAKE_CUDA_INIT: '100' }, /no NVIDIA GPU/)
  await refuses({ ...driver, FAKE_CUDA_DEVICES: '0' }, /no NVIDIA GPU.*CUDA_VISIBLE_DEVICES/)
  await refuses({ ...driver, FAKE_CUDA_INIT: '999' }, /fails at cuInit \(CUDA error 999\)/)
  await refuses({ ...driver, FAKE_CUDA_MAJOR: '7' }, /Fake GPU has compute capability 7\.0.*needs 8\.0/)
  const found = await generate('cuda', driver)
  assert.is(found.code, 0, found.stderr)
})

devices("NVIDIA's libraries are taken in the versions that the plugin is built for", async () => {
  const env = { FLRC_BACKEND_PATH: counter, FAKE_PLUGIN: 'cublas', LD_LIBRARY_PATH: drivers }
  await refuses({ ...env, FAKE_CUBLAS_VERSION: '120800' }, /cuBLAS has version 120800.*130000 to 139999/)
  await refuses({ ...env, FAKE_CUBLAS_VERSION: '140000' }, /cuBLAS has version 140000/)
  const found = await generate('cuda', env)
  assert.is(found.code, 0, found.stderr)
})

devices('a plugin computes, the better of two, behind sessions, forks, batches and speculation', async () => {
  const { code, stderr } = await runModule(
    `
    import assert from 'node:assert/strict'
    import { benchDecode } from '#lib/bench/decode.js'
    import { Model } from '#lib/index.js'
    const model = await Model.load('models/tiny', { device: 'auto' })
    assert.equal(model.device, 'cuda')
    assert.equal(model.plugin.device, 'counter of score 20')
    const sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, seed: 0, draw: 0 }
    const session = model.createSession()
    assert.equal(await session.prefill(Int32Array.from({ length: 40 }, (_, i) => i), 0), 40)
    assert.deepEqual(session.sample(sampling), { tokenId: 40, logprob: -0.5, entropy: 0.25 })
    const fork = await session.fork()
    assert.equal((await session.decode(70, 0, sampling)).tokenId, 71)
    assert.equal(fork.sample(sampling).tokenId, 40)
    const { constructor: Session } = session
    const each = await Session.decodeEach([
      { session, token: 5, level: 0, sampling },
      { session: fork, token: 8, level: 0, sampling },
    ])
    assert.deepEqual(each.map(({ tokenId }) => tokenId), [6, 9])
    const { steps, drafted } = await session.speculate(6, { level: 0, tokens: 3, least: 0, ends: new Int32Array() }, sampling)
    assert.deepEqual(steps.map(({ tokenId }) => tokenId), [7, 8, 9, 10])
    assert.equal(drafted, 3)
    assert.equal(session.sample(sampling).tokenId, 10)
    const [right, wrong] = await session.logprobs(Int32Array.of(10, 3), 0)
    assert.ok(right > -1 && wrong < -9)
    session.rewind(41)
    assert.throws(() => session.sample(sampling), { code: 'E_INTERNAL' })
    const { machine } = await benchDecode([{ name: 'counter', model }], { tokens: 2, rounds: 1 })
    assert.equal(machine.bandwidth, 5e10)
    model.dispose()
  `,
    { env: { ...process.env, FLRC_BACKEND_PATH: both } },
  )
  assert.is(code, 0, stderr)
})

devices('the demo for a GPU machine tells where a plugin writes something else', async () => {
  const { code, stdout, stderr } = await runNode(['bench/cuda-demo.mjs', '12'], {
    seconds: 120,
    env: { ...process.env, FLRC_BACKEND_PATH: counter },
  })
  assert.is(code, 1, stderr)
  assert.match(stdout, /^counter of score 10, beside the CPU/)
  assert.match(stdout, /\| dense \| full rank \| 36 \| 0 \|/)
  assert.match(stdout, /flrc bench decode --device cuda\n/)
  assert.match(stderr, /compressed, keep 0.8, speculation: the GPU writes something else/)
})

devices('what fails in the demo for a GPU machine takes nothing else with it', async () => {
  const { code, stdout, stderr } = await runNode(['bench/cuda-demo.mjs', '2'], {
    seconds: 120,
    env: { ...process.env, FLRC_BACKEND_PATH: counter, FAKE_PLUGIN: 'broken' },
  })
  assert.is(code, 1)
  assert.match(stderr, /fell off the bus\nwriting: ends with 1\n/)
  assert.match(stderr, /flrc bench decode --device cuda: ends with 1\n/)
  assert.match(stdout, /flrc bench decode --device cpu\n.*tokens\/s/s)
  assert.match(stderr, /compressing: ends with 1\n/)
})

devices('what a plugin finds out about its device is said beside the result, and only then', async () => {
  const bench = (how: string) => {
    const args = ['bench', 'decode', tinyModel, '--device', 'cuda', '--tokens', '2', '--rounds', '1', '--json']
    return runCli(args, { env: { ...process.env, FLRC_BACKEND_PATH: counter, FAKE_PLUGIN: how } })
  }
  const noted = await bench('noted')
  assert.is(noted.code, 0, noted.stderr)
  assert.match(noted.stderr, /^note: it has counted, and found it slow$/m)
  assert.ok(JSON.parse(noted.stdout))
  assert.not.match((await bench('')).stderr, /note:/)
})

devices('a failure of the device reaches the caller with its code', async () => {
  const failures: [string, string, RegExp][] = [
    ['full', 'E_OUT_OF_MEMORY', /1 GB free of 2 GB/],
    ['broken', 'E_DEVICE', /fell off the bus/],
    ['nan', 'E_NUMERIC', /not finite/],
  ]
  for (const [how, code, message] of failures) {
    const ended = await generate('cuda', { FLRC_BACKEND_PATH: counter, FAKE_PLUGIN: how })
    assert.is(ended.code, 1)
    assert.is(ended.error?.code, code)
    assert.match(ended.error?.message ?? '', message)
  }
})

devices(
  'a process that exits ends the work of a plugin before the exit handlers of what that uses',
  async () => {
    const work = `
    import { Model } from '#lib/index.js'
    const model = await Model.load('models/tiny', { device: 'cuda' })
    void model.generate('Once').next()
  `
    const leave = `process.on('SIGTERM', () => process.exit(7))`
    const inWorker = `
    import { Worker } from 'node:worker_threads'
    const source = ${JSON.stringify(work)}.replace('#lib/', new URL('dist/', 'file://' + process.cwd() + '/').href)
    const url = 'data:text/javascript,' + encodeURIComponent(source)
    new Worker('import(' + JSON.stringify(url) + ')', { eval: true })
  `
    for (const source of [work, inWorker]) {
      const ended = await runModule(source + leave, {
        env: { ...process.env, FLRC_BACKEND_PATH: counter, FAKE_PLUGIN: 'endless' },
        onStart: (child) => {
          child.stderr?.on('data', (data) => {
            if (String(data).includes('under way')) child.kill('SIGTERM')
          })
        },
      })
      assert.is(ended.code, 7, ended.stderr)
    }
  },
)

devices.run()
