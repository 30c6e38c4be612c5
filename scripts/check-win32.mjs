// win32-x64 on linux-x64, under Wine: the C++ tests, tests of the library, and the installed tarball, with the binary that
// releases have beside it, next to what it does on Linux. `npm run check:win32` makes all of it first; `-- PATTERN` runs
// the checks whose names contain it, after the installation.
import assert from 'node:assert/strict'
import { win32X64 } from './setup/targets.mjs'
import { checkTarget } from './test/emulated.mjs'

await checkTarget(win32X64, {
  pattern: process.argv[2],
  attached: true,
  // Lifetimes, among others: the end of a process, of a worker, of a model that nobody holds.
  library: ['api', 'generate', 'lifetime'],
  more: [
    ['checkpoints', checkpoints],
    ['failures', failures],
  ],
})

/** A checkpoint is written whole, is not replaced unasked, and is when asked. */
function checkpoints({ flrc, tiny }) {
  const export_ = (...more) => ['export', tiny, '--to', 'hf', '-o', 'größe/模型', ...more]
  flrc(win32X64, export_())
  assert.equal(flrc(win32X64, export_(), {}, 1).error.code, 'E_EXISTS')
  flrc(win32X64, export_('--overwrite'))
  assert.ok(flrc(win32X64, ['inspect', 'größe\\模型']))
  assert.equal(flrc(win32X64, ['export', tiny, '--to', 'hf', '-o', 'q:\\nowhere'], {}, 1).error.code, 'E_IO')
}

function failures({ flrc, tiny }) {
  const generate = (model, ...more) => ['generate', model, '-p', 'Once', ...more]
  assert.equal(flrc(win32X64, generate('c:\\no\\model'), {}, 1).error.code, 'E_NOT_FOUND')
  assert.equal(flrc(win32X64, generate(tiny, '--device', 'cuda'), {}, 1).error.code, 'E_DEVICE')
  assert.equal(flrc(win32X64, ['compress', tiny, '-o', 'x', '--keep', '2'], {}, 2).error.code, 'E_USAGE')
}
