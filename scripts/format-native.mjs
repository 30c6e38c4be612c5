// Lays out the C++ sources as .clang-format says: `--write` changes them, `--check` only reports.
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { root } from './setup/log.mjs'
import { clangFormat, onPath } from './setup/system.mjs'

const folders = ['native', 'cuda', 'test/native', 'test/plugins', 'test/cuda', 'bench/native']

/** Every C++ and CUDA source of the repository, from its root. */
function sources() {
  return folders
    .filter((folder) => existsSync(path.join(root, folder)))
    .flatMap((folder) =>
      readdirSync(path.join(root, folder), { recursive: true })
        .filter((file) => /\.(cc|h|cu|cuh)$/.test(file))
        .map((file) => path.join(folder, file)),
    )
    .sort()
}

/** `{ ok, output }`, the output naming the files at fault, or undefined where clang-format is not installed. */
export function formatNative({ write }) {
  if (!onPath(clangFormat)) return undefined
  const mode = write ? ['-i'] : ['--dry-run', '--Werror']
  const files = sources()
  if (files.length === 0) return { ok: true, output: '' }
  const { status, stderr } = spawnSync(clangFormat, [...mode, ...files], { cwd: root, encoding: 'utf8' })
  const faulty = new Set([...stderr.matchAll(/^(.+?):\d+:\d+: error: /gm)].map(([, file]) => file))
  return { ok: status === 0, output: faulty.size > 0 ? `${[...faulty].join('\n')}\n` : stderr }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const result = formatNative({ write: process.argv[2] === '--write' })
  if (result === undefined) {
    process.stderr.write(`${clangFormat} is not installed: apt-get install ${clangFormat}\n`)
    process.exitCode = 1
  } else {
    process.stderr.write(result.output)
    process.exitCode = result.ok ? 0 : 1
  }
}
