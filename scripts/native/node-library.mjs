// Makes the library through which an addon for Windows, linked by MinGW-w64, calls Node-API, and prints its path, for
// binding.gyp. The calls are bound late, so that the program need not be called node.exe
// (native/platform/windows/addon/host.cc).
import { spawnSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { symbols } from 'node-api-headers'

/** As NAPI_VERSION in binding.gyp. */
const names = Object.values(symbols.v9).flat()

const folder = fileURLToPath(new URL('../../build/node-api', import.meta.url))
const [definitions, library] = ['node.def', 'libnode_api.a'].map((name) => path.join(folder, name))
mkdirSync(folder, { recursive: true })
writeFileSync(definitions, ['LIBRARY node.exe', 'EXPORTS', ...names, ''].join('\n'))
const args = ['--input-def', definitions, '--output-delaylib', library]
const { status, error, stderr } = spawnSync('x86_64-w64-mingw32-dlltool', args, { encoding: 'utf8' })
if (status !== 0) throw new Error(`x86_64-w64-mingw32-dlltool: ${error?.message ?? stderr}`)
console.log(library)
