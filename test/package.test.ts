import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { explainMissing, explainUnloadable } from '#lib/missing-addon.js'
import { inTemporaryDirectory } from './support/checkpoint.js'
import { cli, root, runNode, tinyModel } from './support/child.js'

const script = (name: string) => import(path.join(root, 'scripts/package', name))
const { binaryProblems } = (await script('binary.mjs')) as { binaryProblems(file: string): string[] }
const { tarballProblems } = (await script('tarball.mjs')) as {
  tarballProblems(file: string, prebuilds: string[]): string[]
}
const { installedPackages, noticesText } = (await script('notices.mjs')) as {
  installedPackages(): string[]
  noticesText(): string
}
const { version } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as { version: string }
const tarball = path.join(root, `build/package/flrc-${version}.tgz`)
const shipped = path.join(root, `prebuilds/linux-${process.arch}/flrc.glibc.node`)

const gates = suite('gates of the package')

gates('what is shipped passes', () => {
  assert.equal(binaryProblems(shipped), [])
  assert.equal(tarballProblems(tarball, [`linux-${process.arch}`]), [])
})

gates('binaries that would not do are found out', () =>
  inTemporaryDirectory(async (folder) => {
    const unstripped = binaryProblems(path.join(root, 'build/Release/flrc.node'))
    assert.equal(unstripped, ['is not stripped'])
    // Node itself is a program: it shows its symbols and links the C++ library as it was built to.
    const program = binaryProblems(process.execPath).join('\n')
    assert.match(program, /lacks the entry point napi_register_module_v1/)
    assert.match(program, /shows \d+ symbols of its inside/)
    assert.match(program, /needs the shared library libstdc\+\+\.so\.6/)

    const talkative = path.join(folder, 'flrc.node')
    for (const text of [`${root}/native/addon.cc`, '/home/someone/flrc/native/addon.cc']) {
      copyFileSync(shipped, talkative)
      writeFileSync(talkative, `\0${text}\0`, { flag: 'a' })
      assert.equal(binaryProblems(talkative).length, 1)
      assert.match(binaryProblems(talkative)[0] ?? '', /path of the machine that built it/)
    }
  }),
)

gates('tarballs that would not do are found out', () => {
  const problems = tarballProblems(tarball, ['linux-x64', 'plan9-mips'])
  assert.equal(problems, ['lacks a binary for plan9-mips'])
})

gates('the notices name all that is compiled in or installed', () => {
  const text = noticesText()
  const packages = installedPackages()
  assert.ok(packages.length > 20)
  for (const folder of packages) {
    const name = folder.split('node_modules/').at(-1)
    assert.ok(text.includes(`### ${name} `), name)
  }
  for (const name of ['OpenBLAS', 'LAPACK', 'Highway', 'libstdc++', 'node-addon-api']) {
    assert.ok(text.includes(`### ${name} `), name)
  }
})

const errors = suite('no binary')
const host = { platform: 'linux', arch: 'x64', node: '20.19.0', glibc: '2.36' }

errors('the message lists what was tried, what there is, and the remedy', () =>
  inTemporaryDirectory(async (folder) => {
    mkdirSync(path.join(folder, 'prebuilds', 'linux-x64'), { recursive: true })
    const missing = explainMissing(folder, { ...host, platform: 'sunos', arch: 'sparc' })
    assert.match(missing, /^no native addon for sunos-sparc, Node 20\.19\.0; looked for /)
    for (const tried of ['build/Release', 'build/Debug', 'prebuilds/sunos-sparc']) {
      assert.ok(missing.includes(path.join(folder, tried)), tried)
    }
    assert.match(
      missing,
      /binaries in the package: linux-x64; use one of these platforms, or build it from a clone/,
    )
    assert.match(explainMissing(folder, host), /install flrc again/)
    assert.match(
      explainMissing(folder, { ...host, platform: 'win32' }),
      /unpack the binary for win32-x64 .*, and set FLRC_PREBUILD to the folder/,
    )
    assert.match(
      explainMissing(folder, { ...host, glibc: undefined }),
      /musl\).*musl \(Alpine\) is not supported/,
    )
    assert.match(
      explainMissing(folder, host, path.join(folder, 'elsewhere')),
      /in .*elsewhere.prebuilds.linux-x64; unset FLRC_PREBUILD, or set it to the folder/,
    )
    assert.not.ok(existsSync(path.join(folder, 'binding.gyp')))
    writeFileSync(path.join(folder, 'binding.gyp'), '{}')
    assert.match(explainMissing(folder, host), /run `npm run build` in/)
  }),
)

errors('FLRC_PREBUILD may be relative to the working directory', () =>
  inTemporaryDirectory(async (folder) => {
    const elsewhere = path.join(folder, 'there', 'prebuilds', `${process.platform}-${process.arch}`)
    mkdirSync(elsewhere, { recursive: true })
    copyFileSync(shipped, path.join(elsewhere, 'flrc.glibc.node'))
    const env = { ...process.env, FLRC_PREBUILD: 'there' }
    const ended = await runNode([cli, 'inspect', tinyModel], { cwd: folder, env })
    assert.is(ended.code, 0, ended.stderr)
  }),
)

errors('an old glibc is told from a damaged file', () => {
  const old = explainUnloadable(
    root,
    { ...host, glibc: '2.31' },
    "libc.so.6: version `GLIBC_2.34' not found (...)",
  )
  assert.match(old, /linux-x64 with glibc 2\.31.*binaries need glibc 2\.34 or newer/)
  assert.not.match(explainUnloadable(root, host, 'file too short'), /binaries need glibc/)
})

for (const one of [gates, errors]) one.run()
