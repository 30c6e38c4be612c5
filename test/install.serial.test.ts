import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { root } from './support/child.js'

const { version } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as { version: string }
const tarball = path.join(root, `build/package/flrc-${version}.tgz`)

const folder = mkdtempSync(path.join(tmpdir(), 'flrc-install-'))
const project = path.join(folder, 'project')
const installed = path.join(project, 'node_modules', 'flrc')
const main = path.join(installed, 'dist', 'cli', 'main.js')
const tiny = path.join(installed, 'models', 'tiny')

/** Programs that a build would start: each writes its name here, and fails. */
const buildLog = path.join(folder, 'build.log')
const builders = [
  'node-gyp',
  'cmake-js',
  'cmake',
  'make',
  'cc',
  'gcc',
  'c++',
  'g++',
  'clang',
  'python3',
  'python',
]

interface Ended {
  code: number | null
  stdout: string
  stderr: string
}

function runProgram(
  command: string,
  args: readonly string[],
  { cwd = project, input = '' } = {},
): Promise<Ended> {
  const env = {
    ...process.env,
    PATH: [path.join(folder, 'bin'), path.dirname(process.execPath), process.env.PATH].join(path.delimiter),
  }
  // Settings of the npm that runs the tests are not those of a user's shell.
  for (const name of Object.keys(env)) if (name.startsWith('npm_')) Reflect.deleteProperty(env, name)
  const child = spawn(command, args, { cwd, env })
  const output = { stdout: '', stderr: '' }
  child.stdout.on('data', (data) => {
    output.stdout += data
  })
  child.stderr.on('data', (data) => {
    output.stderr += data
  })
  // A program that ends without reading has no need of it.
  child.stdin.on('error', () => undefined)
  child.stdin.end(input)
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code) => resolve({ code, ...output }))
  })
}

/** Of the server. */
interface Answer {
  usage: { completion_tokens: number }
}

async function works(command: string, args: readonly string[], options = {}): Promise<Ended> {
  const ended = await runProgram(command, args, options)
  assert.is(ended.code, 0, `${command} ${args.join(' ')}\n${ended.stdout}${ended.stderr}`)
  return ended
}

async function json(
  node: string,
  args: readonly string[],
  options: { input?: string } = {},
): Promise<Record<string, unknown>> {
  return JSON.parse((await works(node, [main, ...args, '--json'], options)).stdout)
}

/** What `flrc serve` prints when it listens, and a client gets from it before it is interrupted. */
async function served(node: string, args: readonly string[]): Promise<Record<string, unknown>> {
  const child = spawn(node, [main, 'serve', ...args, '--port', '0', '--json'], { cwd: project })
  const ended = once(child, 'close')
  let stderr = ''
  child.stderr.on('data', (data) => {
    stderr += data
  })
  try {
    const [printed] = (await Promise.race([once(child.stdout, 'data'), ended])) as [Buffer | number]
    assert.ok(typeof printed !== 'number', stderr)
    const document = JSON.parse(printed.toString())
    const response = await fetch(`${document.url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ messages: [{ role: 'user', content: 'Tell' }], max_tokens: 8 }),
    })
    return { ...document, answer: await response.json() }
  } finally {
    child.kill('SIGINT')
    assert.equal(await ended, [130, null])
  }
}

async function installInto(directory: string, options: readonly string[]): Promise<void> {
  mkdirSync(directory, { recursive: true })
  writeFileSync(path.join(directory, 'package.json'), '{ "private": true }\n')
  const quiet = ['--prefer-offline', '--no-audit', '--no-fund', '--foreground-scripts']
  await works('npm', ['install', ...quiet, ...options, tarball], { cwd: directory })
}

const installing = suite('npm install')

installing.before(async () => {
  mkdirSync(path.join(folder, 'bin'))
  for (const name of builders) {
    const file = path.join(folder, 'bin', name)
    writeFileSync(file, `#!/bin/sh\necho "${name} $*" >> '${buildLog}'\nexit 1\n`)
    chmodSync(file, 0o755)
  }
  await installInto(project, ['--ignore-scripts'])
})

installing('runs no script and builds nothing, also where scripts are allowed', async () => {
  const other = path.join(folder, 'with-scripts')
  await installInto(other, [])
  for (const directory of [project, other]) {
    const lock = JSON.parse(readFileSync(path.join(directory, 'package-lock.json'), 'utf8'))
    const scripted = Object.entries<{ hasInstallScript?: boolean }>(lock.packages).filter(
      ([, entry]) => entry.hasInstallScript,
    )
    assert.equal(scripted, [])
    const names = readdirSync(path.join(directory, 'node_modules', 'flrc')).sort()
    assert.not.ok(names.includes('build') || names.includes('binding.gyp'), names.join(' '))
  }
  assert.not.ok(existsSync(buildLog), existsSync(buildLog) ? readFileSync(buildLog, 'utf8') : '')
  // What is built is seen.
  await runProgram('make', ['all'])
  assert.is(readFileSync(buildLog, 'utf8'), 'make all\n')
})

const using = suite('the installed package')

using('npx flrc', async () => {
  assert.is((await works('npx', ['--no-install', 'flrc', '--version'])).stdout, `${version}\n`)
})

/** `flrc X` of every row in the README's table of commands. */
function readmeCommands(): string[] {
  const readme = readFileSync(path.join(installed, 'README.md'), 'utf8')
  return [...readme.matchAll(/^\| `flrc ([a-z -]*[a-z])/gm)].map(([, command]) => command as string)
}

using('every command of the README', async () => {
  const text = path.join(tiny, 'heldout.txt')
  const lines = readFileSync(text, 'utf8')
    .split('\n')
    .filter((line) => line.length > 80)
    .slice(0, 4)
  const jsonl = (name: string, toSample: (line: string) => object) => {
    writeFileSync(path.join(project, name), lines.map((line) => `${JSON.stringify(toSample(line))}\n`).join(''))
    return name
  }
  const dialogues = jsonl('dialogues.jsonl', (line) => ({ dialogue: line, summary: line.slice(0, 40) }))
  const choices = jsonl('choices.jsonl', (line) => ({
    context: line.slice(0, 40),
    choices: ['xyzzy', line.slice(40)],
    answer: 1,
  }))
  const short = ['--limit', '2', '--max-tokens', '8']
  const levels = ['--keep', '.8', '--levels', '.8,.7,.6', '--samples', '8', '--seq-len', '64']
  const falling = ['--schedule', 'linear:.8:.6:4']
  const calibration = ['--calibration', path.join(tiny, 'calibration.txt'), 'self']
  const windows = ['--seq-len', '128', '--windows', '4']
  const length = (list: unknown) => (list as unknown[]).length
  const runs: [command: string, args: string[], holds: (report: Record<string, unknown>) => boolean][] = [
    ['demo', [], ({ rows }) => length(rows) === 8],
    [
      'calibrate',
      [tiny, '-o', 'cal', '--samples', '8', '--seq-len', '64', ...calibration],
      ({ samples }) => samples === 8,
    ],
    [
      'compress',
      [tiny, '-o', 'small', ...levels, '--calibration', 'cal'],
      ({ levels }) => length(levels) === 3,
    ],
    ['generate', ['small', '--chat', '-p', 'Tell', ...falling], ({ tokenIds }) => length(tokenIds) > 0],
    ['chat', ['small', '--max-tokens', '4', ...falling], ({ turns }) => length(turns) === 1],
    ['serve', ['small', ...falling], ({ answer }) => (answer as Answer).usage.completion_tokens > 0],
    ['eval perplexity', ['small', '--text', text, ...windows], ({ perplexity }) => Number(perplexity) > 1],
    ['eval summarize', ['small', '--data', dialogues, ...short, ...falling], ({ samples }) => samples === 2],
    ['eval choice', ['small', '--data', choices], ({ samples }) => samples === 4],
    [
      'eval agreement',
      ['small', '--reference', tiny, '--data', dialogues, ...short],
      ({ agreement }) => Number(agreement) > 0,
    ],
    [
      'calibrate-schedule',
      ['small', '--data', dialogues, '--budget', '.7', ...short],
      ({ frontier }) => length(frontier) > 0,
    ],
    ['bench decode', [tiny, 'small', '--tokens', '8', '--rounds', '2'], ({ rows }) => length(rows) >= 2],
    ['inspect', ['small'], ({ format }) => format === 'flrc'],
    ['report', ['small', '-o', 'small.html'], ({ bytes }) => Number(bytes) > 10_000],
    ['export', ['small', '--to', 'hf', '-o', 'dense'], () => existsSync(path.join(project, 'dense'))],
  ]
  assert.equal(
    runs.map(([command]) => command),
    readmeCommands(),
  )
  for (const [command, args, holds] of runs) {
    // Only a conversation reads it.
    const input = 'Tell me more.\n'
    const report =
      command === 'serve'
        ? await served(process.execPath, args)
        : await json(process.execPath, [...command.split(' '), ...args], { input })
    assert.ok(holds(report), `${command}: ${JSON.stringify(report)}`)
  }
  assert.ok(existsSync(path.join(project, 'flrc-demo', 'report.html')))
  const html = readFileSync(path.join(project, 'small.html'), 'utf8')
  assert.ok((html.match(/<figure/g)?.length ?? 0) >= 5, 'figures of the report')
  const scheduled = ['generate', 'small', '-p', 'Once', '--max-tokens', '8', '--schedule', 'calibrated']
  assert.ok(((await json(process.execPath, scheduled)).meanActiveBudget as number) < 0.8)
  const dense = await json(process.execPath, ['generate', 'dense', '-p', 'Once', '--max-tokens', '4'])
  assert.is((dense.tokenIds as number[]).length, 4)
})

function readmeProgram(): string {
  const readme = readFileSync(path.join(installed, 'README.md'), 'utf8')
  return /```ts\n(import [\s\S]*?)```/.exec(readme)?.[1] ?? ''
}

using("the README's program", async () => {
  const files = {
    'SmolLM2-135M-Instruct.Q4_1.gguf': tiny,
    'my-text.txt': path.join(tiny, 'calibration.txt'),
    'held-out.txt': path.join(tiny, 'heldout.txt'),
  }
  let program = readmeProgram()
  for (const [name, file] of Object.entries(files)) {
    assert.ok(program.includes(`'${name}'`), name)
    program = program.replaceAll(`'${name}'`, JSON.stringify(file))
  }
  writeFileSync(path.join(project, 'readme.mjs'), program)
  const { stdout } = await works(process.execPath, ['readme.mjs'])
  assert.match(stdout, /perplexity: [\d.]+/)
  assert.ok(existsSync(path.join(project, 'smol-flrc', 'flrc-plan.json')))
})

const tsc = (file: string, module: string, resolution: string) => [
  ...[path.join(root, 'node_modules/typescript/bin/tsc'), '--noEmit', '--strict', '--target', 'es2022'],
  ...['--types', 'node', '--typeRoots', path.join(root, 'node_modules/@types')],
  ...['--module', module, '--moduleResolution', resolution, file],
]

using("the README's program has the package's types, whatever finds them", async () => {
  const code = readmeProgram()
  // Modules that become CommonJS have no await outside of functions.
  const [, imports = '', body = ''] = /^((?:import .*\n)+)([\s\S]*)$/.exec(code) ?? []
  const wrapped = `${imports}export async function main() {${body}}\n`
  const wrong = wrapped.replace('keep: 0.9', "keep: 'much'")
  const required =
    "import flrc = require('flrc')\nexport const load: Promise<flrc.Model> = flrc.Model.load('x')\n"
  const files = { 'a.mts': code, 'a.cts': wrapped, 'b.mts': wrong, 'c.cts': required }
  for (const [name, text] of Object.entries(files)) {
    writeFileSync(path.join(project, name), text)
  }
  await works(process.execPath, tsc('a.mts', 'node16', 'node16'))
  for (const resolution of ['node16', 'nodenext']) {
    await works(process.execPath, tsc('a.cts', resolution, resolution))
    await works(process.execPath, tsc('c.cts', resolution, resolution))
  }
  await works(process.execPath, tsc('a.mts', 'esnext', 'bundler'))
  const refused = await runProgram(process.execPath, tsc('b.mts', 'node16', 'node16'))
  assert.match(refused.stdout, /b\.mts.*error TS2322: Type 'string' is not assignable to type 'number'/)
})

/** What samples take from the program around them, and as much of a client as they use. */
const aroundSamples = `
declare const model: import('flrc').Model
declare const prompt: string, text: string, apart: string
declare const dialogues: import('flrc').DialogueSample[]
declare module 'openai' {
  interface Asked { model: string; messages: { role: 'system' | 'user'; content: string }[]; stream?: boolean }
  export default class { constructor(options: object); chat: { completions: { create(asked: Asked): any } } }
}
`

using('every sample of the documents has its types', async () => {
  const documents = ['README.md', 'docs', 'docs/guides'].flatMap((place) =>
    place.endsWith('.md')
      ? [place]
      : readdirSync(path.join(root, place)).flatMap((name) =>
          name.endsWith('.md') ? [`${place}/${name}`] : [],
        ),
  )
  const samples = documents.flatMap((file) =>
    [...readFileSync(path.join(root, file), 'utf8').matchAll(/```ts\n(.*?)```/gs)].map(
      ([, code = ''], index) => ({
        name: `${file.replaceAll('/', '-')}-${index}.mts`,
        code,
      }),
    ),
  )
  assert.ok(samples.length >= 7)
  for (const { name, code } of samples) writeFileSync(path.join(project, name), `${code}\nexport {}\n`)
  writeFileSync(path.join(project, 'around.d.ts'), aroundSamples)
  await works(process.execPath, [
    ...tsc('around.d.ts', 'node16', 'node16'),
    // Without the names of browsers, such as prompt.
    ...['--lib', 'es2023,esnext.disposable'],
    ...samples.map(({ name }) => name),
  ])
})

using('every example', async () => {
  assert.equal(readdirSync(path.join(installed, 'examples')).sort(), ['chat.mjs', 'compress.mjs', 'serve.mjs'])
  const example = (name: string) => path.join(installed, 'examples', name)
  const compressed = await works(process.execPath, [example('compress.mjs')])
  assert.match(
    compressed.stdout,
    /^dense: .* MB, perplexity [\d.]+\ncompressed: .* MB, perplexity [\d.]+\nOnce upon a time/,
  )
  const chat = await works(process.execPath, [example('chat.mjs')], { input: 'Tell me a story.\n\n' })
  assert.match(chat.stdout, /^> .+/)
  const serve = await works(process.execPath, [example('serve.mjs')])
  assert.match(serve.stderr, /^tiny at http:.*\n\d+ tokens/)
  assert.ok(serve.stdout.length > 1)
})

using('the CUDA plugin is a package of its own, found where it is installed', async () => {
  const generate = [main, 'generate', tiny, '-p', 'x', '--device', 'cuda']
  const without = await runProgram(process.execPath, generate)
  assert.is(without.code, 1)
  assert.match(without.stderr, /flrc: E_DEVICE: the CUDA plugin is not installed: npm install @flrc\/cuda/)
  const plugin = path.join(installed, '..', '@flrc', 'cuda')
  const prebuilds = path.join(plugin, 'prebuilds', `${process.platform}-${process.arch}`)
  mkdirSync(prebuilds, { recursive: true })
  writeFileSync(path.join(plugin, 'package.json'), '{ "name": "@flrc/cuda", "version": "0.0.0" }')
  writeFileSync(path.join(prebuilds, 'flrc_cuda.so'), 'not a plugin')
  const damaged = await runProgram(process.execPath, generate)
  assert.is(damaged.code, 1)
  assert.match(damaged.stderr, /flrc: E_DEVICE: .*@flrc\/cuda\/prebuilds\/.*flrc_cuda\.so does not open/)
  rmSync(plugin, { recursive: true })
})

using('a missing or damaged binary is an error that says what to do', async () => {
  const prebuilds = path.join(installed, 'prebuilds')
  const generate = [main, 'generate', tiny, '-p', 'x']
  renameSync(prebuilds, `${prebuilds}.away`)
  try {
    const missing = await runProgram(process.execPath, generate)
    assert.is(missing.code, 1)
    assert.match(missing.stderr, /flrc: E_BINDING: no native addon .* looked for .*prebuilds/)
    const binary = path.join(prebuilds, `${process.platform}-${process.arch}`, 'flrc.glibc.node')
    mkdirSync(path.dirname(binary), { recursive: true })
    writeFileSync(binary, 'not a binary')
    const damaged = await runProgram(process.execPath, generate)
    assert.is(damaged.code, 1)
    assert.match(damaged.stderr, /flrc: E_BINDING: the native addon does not load .* install flrc again/)
    assert.is((await works(process.execPath, [main, '--version'])).stdout, `${version}\n`)
  } finally {
    rmSync(prebuilds, { recursive: true, force: true })
    renameSync(`${prebuilds}.away`, prebuilds)
  }
})

const program = (load: string) => `
${load}
async function main() {
  const model = await Model.load(${JSON.stringify(tiny)})
  const { text } = await complete(model.generate('Once upon a time', { maxTokens: 8 }))
  model.dispose()
  console.log(JSON.stringify(text))
  try {
    await Model.load('nowhere')
  } catch (error) {
    console.log(error instanceof FlrcError, error.code)
  }
}
main()
`

async function onNode(node: string): Promise<void> {
  assert.is((await works(node, [main, '--version'])).stdout, `${version}\n`)
  const out = `small-${path.basename(path.dirname(path.dirname(node)))}-${Date.now()}`
  const compress = [
    'compress',
    tiny,
    '-o',
    out,
    '--keep',
    '.8',
    '--levels',
    '.8,.6',
    '--samples',
    '8',
    '--seq-len',
    '64',
  ]
  const report = await json(node, [...compress, '--calibration', path.join(tiny, 'calibration.txt')])
  assert.is((report.levels as unknown[]).length, 2)
  const generate = ['generate', out, '-p', 'Once', '--max-tokens', '8', '--schedule', 'step:.8:.6:4']
  assert.equal((await json(node, generate)).levels, [0, 0, 0, 0, 1, 1, 1, 1])
  const { answer } = await served(node, [out])
  assert.ok((answer as Answer).usage.completion_tokens > 0)

  writeFileSync(path.join(project, 'api.mjs'), program("import { complete, FlrcError, Model } from 'flrc'"))
  writeFileSync(
    path.join(project, 'api.cjs'),
    program("const { complete, FlrcError, Model } = require('flrc')"),
  )
  const [esm, cjs] = [await works(node, ['api.mjs']), await works(node, ['api.cjs'])]
  assert.match(esm.stdout, /^".+"\ntrue E_NOT_FOUND\n$/)
  assert.is(cjs.stdout, esm.stdout)
  assert.is(esm.stderr + cjs.stderr, '', 'no warnings')
}

using(`program and API on this Node, ${process.versions.node}`, () => onNode(process.execPath))

for (const major of [22, 24]) {
  using(`program and API on Node ${major}`, async () => {
    const { stdout } = await works(process.execPath, [
      path.join(root, 'scripts/setup/other-node.mjs'),
      String(major),
    ])
    const node = stdout.trim()
    assert.ok((await works(node, ['--version'])).stdout.startsWith(`v${major}.`))
    await onNode(node)
  })
}

using.after(() => rmSync(folder, { recursive: true, force: true }))

for (const one of [installing, using]) one.run()
