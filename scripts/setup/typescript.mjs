import { rmSync } from 'node:fs'
import path from 'node:path'
import { root, runStep } from './log.mjs'
import { hashOf, once } from './stamp.mjs'

const shared = ['lib', 'tsconfig.json', 'package.json', 'package-lock.json']

/** Compiles and type-checks lib into dist. */
export function ensureLibrary() {
  return once('library', hashOf(shared), ['dist/index.js'], () =>
    compile('TypeScript', 'tsconfig.json', 'dist'),
  )
}

/** Compiles and type-checks the tests and benchmarks into build/ts. */
export function ensureTestCode() {
  const inputs = [...shared, 'test/tsconfig.json', 'test', 'bench']
  return once('test-code', hashOf(inputs), ['build/ts/test'], () =>
    compile('TypeScript of the tests', 'test/tsconfig.json', 'build/ts'),
  )
}

async function compile(title, project, output) {
  // What a source file left behind when it was removed or renamed must not be found any more.
  rmSync(path.join(root, output), { recursive: true, force: true })
  const args = ['node_modules/typescript/bin/tsc', '-p', project, '--pretty', 'false']
  await runStep(title, process.execPath, args, { name: title.toLowerCase().replaceAll(' ', '-') })
}
