import { spawnSync } from 'node:child_process'
import { chmodSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { inTemporaryDirectory } from './support/checkpoint.js'
import { root } from './support/child.js'

const workflow = readFileSync(path.join(root, '.github/workflows/release.yml'), 'utf8')
const manifest = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'))

const names = suite('names in the release workflow')

names('every script is one of package.json', () => {
  const scripts = [...workflow.matchAll(/npm run ([\w:-]+)/g)].map(([, script]) => script as string)
  assert.ok(scripts.length >= 5)
  for (const script of scripts) assert.type(manifest.scripts[script], 'string', script)
})

names('every action is pinned to a commit, with its version beside it', () => {
  const uses = [...workflow.matchAll(/uses: (.+)/g)].map(([, action]) => action as string)
  assert.ok(uses.length >= 10)
  for (const action of uses) assert.match(action, /^[\w-]+\/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/)
})

names('what is downloaded was uploaded', () => {
  const of = (step: string) =>
    [...workflow.matchAll(new RegExp(`uses: actions/${step}@.*\\n +with:\\n +name: (.+)`, 'g'))].map(
      ([, name]) => name,
    )
  const uploaded = of('upload-artifact')
  assert.equal([...uploaded].sort(), [
    'binary-darwin-arm64',
    'binary-win32-x64',
    'cuda',
    'package',
    'tests-win32-x64',
  ])
  for (const name of of('download-artifact')) assert.ok(uploaded.includes(name), name)
})

const publishing = suite('publishing')

/** The commands of a step, with these values in the place of expressions. */
function commandsOf(step: string, values: Readonly<Record<string, string>> = {}): string {
  const [, indent = '', block = ''] =
    new RegExp(`- name: ${step}\\n( +)run: \\|\\n((?:\\1  .*\\n)+)`).exec(workflow) ?? []
  assert.ok(block.length > 0, `no step ${step}`)
  const text = block.replaceAll(`\n${indent}  `, '\n').trim()
  return text.replace(/\$\{\{ (.+?) \}\}/g, (_, expression: string) => {
    const output = /needs\.(\w+)\.outputs/.exec(expression)?.[1] ?? ''
    const value = values[output]
    if (value === undefined) throw new Error(`no value for ${expression}`)
    return value
  })
}

interface Run {
  folder: string
  /** Names and versions that the registry has. */
  published?: string
}

/** Runs commands as the runner does, with a `gh` and an `npm` that say what they are asked for. */
function run(commands: string, { folder, published = '' }: Run): string {
  const bin = path.join(folder, 'bin')
  mkdirSync(bin, { recursive: true })
  const programs = {
    gh: '[ "$2" = view ] && exit 1; echo "gh $*" >>log',
    npm: `if [ "$1" = view ]; then case " $PUBLISHED " in *" $2 "*) echo 1;; *) exit 1;; esac; else echo "npm $*" >>log; fi`,
  }
  for (const [name, body] of Object.entries(programs)) {
    writeFileSync(path.join(bin, name), `#!/bin/sh\n${body}\n`)
    chmodSync(path.join(bin, name), 0o755)
  }
  const env = {
    PATH: [bin, path.dirname(process.execPath), process.env.PATH].join(path.delimiter),
    PUBLISHED: published,
    ...{ GITHUB_REF_NAME: 'v0.1.0', GITHUB_REPOSITORY: 'owner/flrc' },
  }
  const { status, stderr, stdout } = spawnSync('bash', ['-e', '-c', commands], {
    cwd: folder,
    env,
    encoding: 'utf8',
  })
  assert.is(status, 0, `${stderr}${stdout}`)
  return stdout
}

/** Artifacts as download-artifact lays them out. */
function artifacts(folder: string, which: readonly string[]): void {
  const files: Record<string, string> = {
    package: 'flrc-0.1.0.tgz',
    cuda: 'flrc-cuda-0.1.0.tgz',
    'binary-win32-x64': 'flrc.node',
    'binary-darwin-arm64': 'darwin-arm64/flrc.node',
    'tests-win32-x64': 'flrc_test.exe',
  }
  for (const name of which) {
    const file = path.join(folder, 'artifacts', name, files[name] ?? '')
    mkdirSync(path.dirname(file), { recursive: true })
    if (!file.endsWith('.tgz')) writeFileSync(file, name)
    else {
      const inside = path.join(folder, 'inside', name, 'package')
      mkdirSync(inside, { recursive: true })
      const manifest = { name: name === 'cuda' ? '@flrc/cuda' : 'flrc', version: '0.1.0' }
      writeFileSync(path.join(inside, 'package.json'), JSON.stringify(manifest))
      spawnSync('tar', ['-czf', file, '-C', path.dirname(inside), 'package'])
    }
  }
}

const all = ['package', 'cuda', 'binary-win32-x64', 'binary-darwin-arm64', 'tests-win32-x64']

publishing('everything that passed is gathered, with its checksums, and published once', () =>
  inTemporaryDirectory(async (folder) => {
    artifacts(folder, all)
    run(commandsOf('Gather files and checksums', { win32: '', cuda: '' }), { folder })
    const release = path.join(folder, 'release')
    const files = ['darwin-arm64.tar.gz', 'flrc-0.1.0.tgz', 'flrc-cuda-0.1.0.tgz', 'win32-x64.tar.gz']
    assert.equal(readdirSync(release).sort(), ['SHA256SUMS', ...files])
    const sums = readFileSync(path.join(release, 'SHA256SUMS'), 'utf8').trim().split('\n')
    assert.equal(
      sums.map((line) => line.split(/ +/)[1]),
      files,
    )
    assert.is(spawnSync('sha256sum', ['--check', 'SHA256SUMS'], { cwd: release }).status, 0)
    for (const platform of ['win32-x64', 'darwin-arm64']) {
      const { stdout } = spawnSync('tar', ['-tzf', path.join(release, `${platform}.tar.gz`)], {
        encoding: 'utf8',
      })
      assert.ok(stdout.split('\n').includes(`prebuilds/${platform}/flrc.node`), stdout)
    }
    run(commandsOf('Publish'), { folder })
    run(commandsOf('Release'), { folder })
    const log = readFileSync(path.join(folder, 'log'), 'utf8').trim().split('\n')
    const options = '--provenance --access public'
    assert.equal(log.slice(0, 2), [
      `npm publish ./release/flrc-0.1.0.tgz ${options}`,
      `npm publish ./release/flrc-cuda-0.1.0.tgz ${options}`,
    ])
    assert.is(log.length, 3)
    assert.match(
      log[2] ?? '',
      /^gh release create v0\.1\.0 release\/SHA256SUMS release\/darwin-arm64\.tar\.gz /,
    )
  }),
)

publishing(
  'what failed is left out, what nobody ran is named so, what is published is not published again',
  () =>
    inTemporaryDirectory(async (folder) => {
      artifacts(folder, ['package', 'cuda', 'binary-win32-x64'])
      run(commandsOf('Gather files and checksums', { win32: 'untested-', cuda: 'untested-' }), { folder })
      const files = readdirSync(path.join(folder, 'release')).sort()
      assert.equal(files, [
        'SHA256SUMS',
        'flrc-0.1.0.tgz',
        'untested-flrc-cuda-0.1.0.tgz',
        'untested-win32-x64.tar.gz',
      ])
      assert.match(
        run(commandsOf('Publish'), { folder, published: 'flrc@0.1.0' }),
        /flrc@0\.1\.0 is published already/,
      )
      assert.not.ok(readdirSync(folder).includes('log'), 'nothing was published')
    }),
)

for (const one of [names, publishing]) one.run()
