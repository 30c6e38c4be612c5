import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import {
  type ChildOptions,
  cli,
  type Ended,
  root,
  runCli,
  runModule,
  runNode,
  tinyModel,
} from './support/child.js'

const folder = mkdtempSync(path.join(tmpdir(), 'flrc-test-'))
const file = (name: string) => path.join(folder, name)
const calibration = path.join(tinyModel, 'calibration.txt')
const quick = ['--calibration', calibration, '--samples', '2', '--seq-len', '64']

interface Failure {
  code: string
  message: string
  file: string | null
  tensor: string | null
}

/** Runs a command that must fail, plain and with --json, and checks that both say the same. */
async function fails(exit: number, code: string, args: string[], options: ChildOptions = {}): Promise<Failure> {
  const [plain, json] = await Promise.all([runCli(args, options), runCli([...args, '--json'], options)])
  check(plain, exit, code)
  assert.is(plain.stdout, '', 'stdout carries results only')
  check(json, exit, code)
  const document = JSON.parse(json.stdout) as { error: Failure }
  assert.equal(Object.keys(document), ['error'])
  assert.equal(Object.keys(document.error), ['code', 'message', 'file', 'tensor'])
  assert.is(document.error.code, code)
  return document.error
}

function check(ended: Ended, exit: number, code: string): void {
  assert.is(ended.signal, null, ended.stderr)
  assert.is(ended.code, exit, ended.stderr)
  const lines = ended.stderr.trim().split('\n')
  assert.ok(lines.at(-1)?.startsWith(`flrc: ${code}: `), ended.stderr)
  assert.not.match(ended.stderr, /\n\s+at .*\.js:/, 'no stack traces')
}

/** A copy of the embedded model, spoiled. */
function spoiled(name: string, spoil: (directory: string) => void): string {
  const directory = file(name)
  cpSync(tinyModel, directory, { recursive: true })
  spoil(directory)
  return directory
}

const usage = suite('usage errors')

usage('unknown commands, flags and missing arguments exit 2', async () => {
  await fails(2, 'E_USAGE', ['frobnicate'])
  await fails(2, 'E_USAGE', ['eval', 'frobnicate'])
  await fails(2, 'E_USAGE', ['generate', tinyModel, '-p', 'x', '--frobnicate'])
  await fails(2, 'E_USAGE', ['generate', tinyModel])
  await fails(2, 'E_USAGE', ['generate', tinyModel, '-p', 'x', '-f', calibration])
  await fails(2, 'E_USAGE', ['compress', '--keep', '0.5', '-o', file('none')])
  await fails(2, 'E_USAGE', ['inspect', tinyModel, 'another'])
})

usage('the name of an option is no value of another, unless it is said to be', async () => {
  const missing = "option '-p, --prompt <text>' argument missing; see flrc generate --help"
  const json = await runCli(['generate', tinyModel, '-p', '--json'])
  check(json, 2, 'E_USAGE')
  assert.is(JSON.parse(json.stdout).error.message, missing)
  for (const option of ['--max-tokens', '-f', '-h']) {
    assert.is((await fails(2, 'E_USAGE', ['generate', tinyModel, '-p', option])).message, missing)
  }
  for (const prompt of [['-p', '-x'], ['--prompt=--json'], ['-p', '- --json'], ['-p', '--jso']]) {
    const { code, stderr } = await runCli(['generate', tinyModel, ...prompt, '--max-tokens', '1'])
    assert.is(code, 0, stderr)
  }
})

usage('where a command is missing, that is what is said', async () => {
  for (const [args, message] of [
    [[], /^no command given; see flrc --help/],
    [['eval'], /^no command given; see flrc eval --help/],
    [['bench'], /^no command given; see flrc bench --help/],
    [['--frobnicate'], /unknown option '--frobnicate'/],
    [['help', 'frobnicate'], /^unknown command 'frobnicate'/],
  ] as const) {
    assert.match((await fails(2, 'E_USAGE', [...args])).message, message)
  }
})

usage('a keep outside (0, 1] exits 2 and writes nothing', async () => {
  for (const keep of ['0', '-0.5', '1.01', 'NaN', '12abc', '', '0x1', 'Infinity']) {
    await fails(2, 'E_USAGE', ['compress', tinyModel, '-o', file('none'), '--keep', keep, ...quick])
  }
  assert.not.ok(existsSync(file('none')))
})

usage('numbers are read strictly', async () => {
  const generate = ['generate', tinyModel, '-p', 'x']
  for (const flag of [
    ['--max-tokens', '1.5'],
    ['--max-tokens', '-1'],
    ['--temperature', 'hot'],
    ['--top-p', '0'],
    ['--min-p', '2'],
    ['--repeat-penalty', '0'],
    ['--frequency-penalty', '-2.5'],
    ['--presence-penalty', 'much'],
    ['--top-k', '3k'],
    ['--seed', '1e400'],
    ['--threads', '-2'],
    ['--dtype', 'f64'],
    ['--device', 'tpu'],
  ]) {
    await fails(2, 'E_USAGE', [...generate, ...flag])
  }
})

usage('what is above 0 may be as large as it likes, and a model must be named', async () => {
  const compress = ['compress', tinyModel, '-o', file('none'), '--target-perplexity-increase', '-5%']
  assert.match((await fails(2, 'E_USAGE', compress)).message, /It must be a number from 0, 0 excluded/)
  assert.match((await fails(2, 'E_USAGE', ['generate', '', '-p', 'x'])).message, /the model is empty/)
})

usage('schedules and levels are checked', async () => {
  for (const schedule of [
    'half',
    'linear:.9:.7',
    'linear:.9:.7:0',
    'constant:1.5',
    'constant:x',
    'step:.8:.6:2:1',
  ]) {
    await fails(2, 'E_USAGE', ['generate', tinyModel, '-p', 'x', '--schedule', schedule])
  }
  for (const speculate of ['4', '4:', '0:.7', '16:.7', '4:.7:1', '4:1.2', 'a:.7', '4:.7']) {
    await fails(2, 'E_USAGE', ['generate', tinyModel, '-p', 'x', '--speculate', speculate])
  }
  const compress = ['compress', tinyModel, '-o', file('none'), '--keep', '0.8', ...quick]
  for (const levels of ['0.9,0.7', '0.8,0.8', '0.7,0.75', '0.8,,0.7', 'a']) {
    await fails(2, 'E_USAGE', [...compress, '--levels', levels])
  }
  assert.not.ok(existsSync(file('none')))
})

usage('the error names the help of the command that was called', async () => {
  const of = async (...args: string[]) => (await fails(2, 'E_USAGE', args)).message
  assert.match(await of('generate', tinyModel), /; see flrc generate --help$/)
  assert.match(await of('eval', 'perplexity', tinyModel), /; see flrc eval perplexity --help$/)
  assert.match(await of('eval', 'frobnicate'), /; see flrc eval --help$/)
  assert.match(await of('frobnicate'), /; see flrc --help$/)
  assert.match(await of('inspect', tinyModel, '--dtype', 'fp16'), /bf16, int8, int4; see flrc inspect --help$/)
})

usage('a model that an option of several values has taken for one is asked for before it', async () => {
  const taken = await fails(2, 'E_USAGE', [
    'compress',
    '--keep',
    '.8',
    '-o',
    'x',
    '--calibration',
    'a',
    tinyModel,
  ])
  assert.match(taken.message, /'model'; give it before --calibration, which takes all that follows; see flrc/)
  const none = await fails(2, 'E_USAGE', ['compress', '--keep', '.8', '-o', 'x'])
  assert.match(none.message, /'model'; see flrc compress --help$/)
})

usage('--help and --version exit 0', async () => {
  for (const args of [['--help'], ['--version'], ['compress', '--help'], ['eval', 'perplexity', '--help']]) {
    const ended = await runCli(args)
    assert.is(ended.code, 0)
    assert.ok(ended.stdout.length > 3)
    assert.is(ended.stderr, '')
    assert.not.match(ended.stdout, 'default: false')
    if (args[0] !== 'compress') continue
    assert.match(ended.stdout, /--dtype <type>\s+type that the checkpoint is stored in/)
    assert.match(ended.stdout, /twice\s+that\s+with\s+--drop-channels/)
  }
})

const models = suite('bad models')

models('a missing model, and a file that is none', async () => {
  const missing = await fails(1, 'E_NOT_FOUND', ['generate', file('nowhere'), '-p', 'x'])
  assert.is(missing.file, file('nowhere'))
  writeFileSync(file('noise.gguf'), 'no model at all')
  await fails(1, 'E_MODEL_FORMAT', ['inspect', file('noise.gguf')])
})

models('names in a file are no commands to the terminal', async () => {
  const directory = spoiled('escapes', (at) => {
    const config = path.join(at, 'config.json')
    const type = '"model_type": "\\u001b[2Jllama\\u009b"'
    writeFileSync(config, readFileSync(config, 'utf8').replace('"model_type": "llama"', type))
  })
  const ended = await runCli(['inspect', directory])
  check(ended, 1, 'E_UNSUPPORTED_ARCH')
  assert.match(ended.stderr, '"\\u001b[2Jllama\\u009b"')
  assert.not.match(ended.stderr.replaceAll('\n', ''), /\p{Cc}/u)
})

models('a directory of .gguf files names one', async () => {
  mkdirSync(file('ggufs'))
  for (const name of ['b.gguf', 'a.gguf', 'README.md']) writeFileSync(path.join(file('ggufs'), name), '')
  const error = await fails(1, 'E_NOT_FOUND', ['inspect', file('ggufs')])
  assert.match(error.message, `such as ${path.join(file('ggufs'), 'a.gguf')}`)
})

models('truncated weights', async () => {
  const directory = spoiled('truncated', (at) => {
    const weights = path.join(at, 'model.safetensors')
    writeFileSync(weights, readFileSync(weights).subarray(0, 1_000_000))
  })
  const error = await fails(1, 'E_MODEL_FORMAT', ['generate', directory, '-p', 'x'])
  assert.match(error.file ?? '', 'model.safetensors')
})

models('a missing tensor is named', async () => {
  const directory = spoiled('missing', (at) => {
    const weights = path.join(at, 'model.safetensors')
    const bytes = readFileSync(weights)
    const text = bytes.toString('latin1')
    const name = 'model.layers.2.mlp.up_proj.weight'
    bytes.write('model.layers.2.mlp.UP_proj.weight', text.indexOf(name), 'latin1')
    writeFileSync(weights, bytes)
  })
  const error = await fails(1, 'E_MODEL_FORMAT', ['generate', directory, '-p', 'x'])
  assert.is(error.tensor, 'model.layers.2.mlp.up_proj.weight')
})

models('NaN weights are found when they are computed with', async () => {
  const directory = spoiled('nan', (at) => {
    const weights = path.join(at, 'model.safetensors')
    const bytes = readFileSync(weights)
    // bf16 NaN in the middle of the weights.
    for (let i = 0; i < 2000; i += 2) bytes.writeUInt16LE(0x7fc0, bytes.length - 4000 + i)
    writeFileSync(weights, bytes)
  })
  const error = await fails(1, 'E_NUMERIC', ['generate', directory, '-p', 'The king'])
  assert.ok(error.message.length > 20)
  await fails(1, 'E_NUMERIC', ['compress', directory, '-o', file('nan-out'), '--keep', '.8', ...quick])
  assert.not.ok(existsSync(file('nan-out')))
})

models('an architecture that is not supported', async () => {
  const directory = spoiled('bert', (at) => {
    const config = path.join(at, 'config.json')
    writeFileSync(config, readFileSync(config, 'utf8').replace('"model_type": "llama"', '"model_type": "bert"'))
  })
  await fails(1, 'E_UNSUPPORTED_ARCH', ['inspect', directory])
})

models('a missing tokenizer', async () => {
  const directory = spoiled('speechless', (at) => rmSync(path.join(at, 'tokenizer.json')))
  await fails(1, 'E_TOKENIZER', ['generate', directory, '-p', 'x'])
})

models('a tokenizer that cannot be used, found while the weights are read', async () => {
  const directory = spoiled('mumbling', (at) =>
    writeFileSync(path.join(at, 'tokenizer.json'), '{"model": {"type": "Magic"}}'),
  )
  await fails(1, 'E_TOKENIZER', ['generate', directory, '-p', 'x'])
})

models('a chat template that never ends, and none at all', async () => {
  const setTemplate = (at: string, template: string | undefined) => {
    const name = path.join(at, 'tokenizer_config.json')
    const config = JSON.parse(readFileSync(name, 'utf8')) as Record<string, unknown>
    writeFileSync(name, JSON.stringify({ ...config, chat_template: template }))
  }
  const endless = spoiled('endless', (at) =>
    setTemplate(
      at,
      '{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}',
    ),
  )
  await fails(1, 'E_CHAT_TEMPLATE', ['generate', endless, '--chat', '-p', 'x'])
  const none = spoiled('templateless', (at) => setTemplate(at, undefined))
  await fails(1, 'E_CHAT_TEMPLATE', ['generate', none, '--chat', '-p', 'x'])
  const { message } = await fails(1, 'E_CHAT_TEMPLATE', ['chat', none])
  assert.match(message, /with flrc generate instead$/, 'before anything is said')
})

models('a prompt beyond the context', async () => {
  await fails(1, 'E_CONTEXT', ['generate', tinyModel, '-p', 'x', '--max-tokens', '512'])
  await fails(1, 'E_CONTEXT', ['eval', 'perplexity', tinyModel, '--text', calibration, '--seq-len', '513'])
})

models('a package without its addon says what was tried and how to build it', async () => {
  const copy = file('package')
  for (const part of ['dist', 'package.json'])
    cpSync(path.join(root, part), path.join(copy, part), { recursive: true })
  symlinkSync(path.join(root, 'node_modules'), path.join(copy, 'node_modules'))
  const main = path.join(copy, 'dist', 'cli', 'main.js')
  const ended = await runNode([main, 'generate', tinyModel, '-p', 'x'])
  check(ended, 1, 'E_BINDING')
  assert.match(ended.stderr, /build.Release.*npm run build/)
  mkdirSync(path.join(copy, 'build', 'Release'), { recursive: true })
  writeFileSync(path.join(copy, 'build', 'Release', 'flrc.node'), 'no shared object')
  check(await runNode([main, 'generate', tinyModel, '-p', 'x']), 1, 'E_BINDING')
  assert.is((await runNode([main, 'inspect', tinyModel])).code, 0, 'needs no addon')
})

const texts = suite('bad texts and targets')

texts('calibration texts that are missing, empty or short', async () => {
  const compress = ['compress', tinyModel, '-o', file('out'), '--keep', '0.8']
  await fails(1, 'E_NOT_FOUND', [...compress, '--calibration', file('nowhere.txt')])
  writeFileSync(file('empty.txt'), '')
  await fails(1, 'E_CALIBRATION', [...compress, '--calibration', file('empty.txt')])
  writeFileSync(file('short.txt'), 'a few words')
  await fails(1, 'E_CALIBRATION', [...compress, '--calibration', file('short.txt')])
  await fails(2, 'E_USAGE', [...compress, '--calibration', `${calibration}:0`])
  await fails(2, 'E_USAGE', [...compress, '--calibration', 'self:0'])
  writeFileSync(file('bad.jsonl'), '{"dialogue": "A: Good day.", "summary": "A greets."}\n{"dialogue": ')
  const bad = await fails(2, 'E_USAGE', [...compress, '--calibration', 'self', `${file('bad.jsonl')}:2`])
  assert.match(bad.message, /bad\.jsonl, line 2/)
  assert.not.ok(existsSync(file('out')))
})

texts('a text too short for a window', async () => {
  writeFileSync(file('short.txt'), 'a few words')
  for (const args of [
    ['perplexity', tinyModel, '--text'],
    ['agreement', tinyModel, '--reference', tinyModel, '--data'],
  ]) {
    const error = await fails(2, 'E_USAGE', ['eval', ...args, file('short.txt')])
    assert.match(error.message, /short\.txt has \d tokens and a window takes/)
  }
  await fails(2, 'E_USAGE', ['eval', 'perplexity', tinyModel, '--text', calibration, '--level', '1'])
})

texts('what is no text is told from what is no model', async () => {
  const compress = ['compress', tinyModel, '-o', file('out'), '--keep', '0.8', '--calibration']
  assert.match((await fails(2, 'E_USAGE', [...compress, folder])).message, /: a directory, .*; give a file/)
  writeFileSync(file('latin1.txt'), Buffer.from('Der König ist tot. '.repeat(99), 'latin1'))
  const error = await fails(2, 'E_USAGE', ['eval', 'perplexity', tinyModel, '--text', file('latin1.txt')])
  assert.match(error.message, /latin1\.txt: not UTF-8 text; convert it/)
})

texts('an existing target is left alone', async () => {
  mkdirSync(file('mine'))
  writeFileSync(path.join(file('mine'), 'notes.txt'), 'mine')
  const compress = ['compress', tinyModel, '-o', file('mine'), '--keep', '0.8', ...quick]
  await fails(1, 'E_EXISTS', compress)
  await fails(1, 'E_EXISTS', [...compress, '--overwrite'])
  assert.equal(readdirSync(file('mine')), ['notes.txt'])
})

texts('a folder that may not be written to is found before the work', async () => {
  const locked = path.join(mkdtempSync(path.join(tmpdir(), 'flrc-test-')), 'locked')
  mkdirSync(locked, { mode: 0o555 })
  chmodSync(path.dirname(locked), 0o755)
  // Root may write everywhere.
  const { stdout, stderr } = await runModule(`
    import { checkNewFile } from '#lib/cli/files.js'
    if (process.getuid() === 0) process.setuid(65534)
    await checkNewFile(${JSON.stringify(path.join(locked, 'out.jsonl'))}).catch(({ code, message }) =>
      console.log(code, message))`)
  rmSync(path.dirname(locked), { recursive: true })
  assert.match(stdout, /^E_IO .*locked: permission denied; choose another path/, stderr)
})

texts('the model that is read is not replaced, by its own path or a link to it', async () => {
  const model = spoiled('source', () => undefined)
  const whole = readdirSync(model)
  symlinkSync(model, file('alias'))
  for (const target of [model, file('alias')]) {
    const error = await fails(1, 'E_EXISTS', [
      ...['compress', model, '-o', target, '--keep', '0.8', '--overwrite', ...quick],
    ])
    assert.match(error.message, /holds the model that is read/)
    await fails(1, 'E_EXISTS', ['export', model, '-o', target, '--overwrite'])
  }
  assert.equal(readdirSync(model), whole)
})

texts('a checkpoint of a newer version, and one that lost a block', async () => {
  const made = await runCli(['compress', tinyModel, '-o', file('good'), '--keep', '0.8', ...quick, '--json'])
  assert.is(made.code, 0, made.stderr)
  cpSync(file('good'), file('newer'), { recursive: true })
  const config = path.join(file('newer'), 'config.json')
  const parsed = JSON.parse(readFileSync(config, 'utf8')) as { flrc: { version: number } }
  parsed.flrc.version = 99
  writeFileSync(config, JSON.stringify(parsed))
  await fails(1, 'E_VERSION', ['generate', file('newer'), '-p', 'x'])
  await fails(2, 'E_USAGE', ['compress', file('good'), '-o', file('twice'), '--keep', '0.5', ...quick])
  await fails(2, 'E_USAGE', ['generate', file('good'), '-p', 'x', '--schedule', 'constant:.9'])
})

const signals = suite('signals and pipes')

signals('SIGINT during compress exits 130 at once and leaves nothing', async () => {
  const before = readdirSync(folder)
  let interrupted = 0
  const ended = await runCli(
    ['compress', tinyModel, '-o', file('interrupted'), '--keep', '0.8', '--calibration', calibration],
    {
      onStart: (child) => {
        child.stderr?.on('data', (data) => {
          if (interrupted > 0 || !String(data).includes('compress')) return
          setTimeout(() => {
            interrupted = performance.now()
            child.kill('SIGINT')
          }, 300)
        })
      },
    },
  )
  const ms = performance.now() - interrupted
  assert.is(ended.code, 130, ended.stderr)
  assert.ok(ms < 1000, `took ${ms} ms to exit`)
  assert.match(ended.stderr, 'flrc: E_ABORTED: ')
  assert.equal(readdirSync(folder), before)
})

signals('a reader that closes the pipe ends generate quietly', async () => {
  const ended = await runCli(['generate', tinyModel, '-p', 'The king', '--max-tokens', '400'], {
    onStart: (child) => {
      child.stdout?.once('data', () => child.stdout?.destroy())
    },
  })
  assert.is(ended.code, 0, ended.stderr)
  assert.not.match(ended.stderr, 'EPIPE')
})

signals('a stderr that is closed keeps no command from its result', async () => {
  const ended = await runCli(['compress', tinyModel, '-o', file('unheard'), '--keep', '.8', ...quick], {
    onStart: (child) => {
      child.stderr?.destroy()
    },
  })
  assert.is(ended.code, 0)
  assert.match(ended.stdout, /projections factored/)
  assert.ok(existsSync(file('unheard')))
  const failed = await runCli(['inspect', file('nowhere')], {
    onStart: (child) => {
      child.stderr?.destroy()
    },
  })
  assert.is(failed.code, 1)
})

signals('a stdin that cannot be read says so', async () => {
  const script = `
    const { spawnSync } = require('node:child_process')
    const stdio = [require('node:fs').openSync(${JSON.stringify(file('write-only'))}, 'w'), 'ignore', 'pipe']
    const { status, stderr } = spawnSync(process.execPath, ${JSON.stringify([cli, 'generate', tinyModel, '-f', '-'])}, { stdio })
    process.stderr.write(stderr)
    process.exit(status)`
  const ended = await runNode(['-e', script])
  check(ended, 1, 'E_IO')
  assert.match(ended.stderr, /stdin: cannot be read/)
})

signals('a stdout that cannot be written says so', async () => {
  if (!existsSync('/dev/full')) return console.log('skipped: a full stdout, missing /dev/full')
  for (const args of [['inspect', tinyModel], ['--help']]) {
    const ended = await runNode([
      '-e',
      `
      const { spawnSync } = require('node:child_process')
      const stdio = ['ignore', require('node:fs').openSync('/dev/full', 'w'), 'pipe']
      const { status, stderr } = spawnSync(process.execPath, ${JSON.stringify([path.join(root, 'dist', 'cli', 'main.js'), ...args])}, { stdio })
      process.stderr.write(stderr)
      process.exit(status)`,
    ])
    check(ended, 1, 'E_IO')
    assert.match(ended.stderr, /stdout cannot be written \(ENOSPC\)/)
  }
})

signals.after(() => rmSync(folder, { recursive: true }))

for (const tests of [usage, models, texts, signals]) tests.run()
