import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { heldOutTable } from '#lib/checkpoint/card-figures.js'
import { prepareTarget, writeDirectory } from '#lib/checkpoint/directory.js'
import { type CompressionPlan, planJson, sha256OfFile, sha256OfFiles } from '#lib/checkpoint/plan.js'
import { storeSchedule } from '#lib/checkpoint/schedule.js'
import { planShards } from '#lib/checkpoint/weights.js'
import { writeCheckpoint, writeDenseModel } from '#lib/checkpoint/write.js'
import { FlrcError } from '#lib/errors.js'
import { flrcHeader } from '#lib/format/flrc-header.js'
import { readSafetensors, readShardedSafetensors } from '#lib/format/safetensors.js'
import {
  fillOf,
  inTemporaryDirectory,
  testContents,
  testEntries,
  writeFake,
  writeWithoutEnd,
} from './support/checkpoint.js'

async function failure(promise: Promise<unknown>, code: string): Promise<FlrcError> {
  try {
    await promise
  } catch (error) {
    assert.instance(error, FlrcError, String(error))
    assert.is((error as FlrcError).code, code, (error as FlrcError).message)
    return error as FlrcError
  }
  throw new Error(`no ${code} was thrown`)
}

const readJson = (...path: string[]) => JSON.parse(readFileSync(join(...path), 'utf8'))

function isWhole(directory: string): boolean {
  return (
    readJson(directory, 'config.json').model_type === 'flrc' &&
    statSync(join(directory, 'model.safetensors')).size > 160
  )
}

test('a checkpoint holds everything, readable by our own readers', () =>
  inTemporaryDirectory(async (directory) => {
    const target = join(directory, 'out')
    const { files, bytes } = await writeCheckpoint(target, testContents())
    assert.equal(readdirSync(directory), ['out'], 'nothing else is left')
    assert.equal(readdirSync(target).sort(), [
      'README.md',
      'config.json',
      'flrc-plan.json',
      'generation_config.json',
      'model.safetensors',
      'tokenizer.json',
      'tokenizer_config.json',
    ])
    const config = readJson(target, 'config.json')
    assert.is(config.model_type, 'flrc')
    assert.equal(flrcHeader(config.flrc, 'config.json'), testContents().header)
    assert.equal(readJson(target, 'tokenizer.json'), testContents().tokenizer.tokenizer)
    assert.equal(readJson(target, 'tokenizer_config.json'), {
      bos_token: '<s>',
      chat_template: '{{ messages }}',
    })
    assert.equal(readJson(target, 'generation_config.json'), { eos_token_id: 2 })
    assert.equal(files, ['model.safetensors'])
    const stored = await readSafetensors(join(target, 'model.safetensors'))
    assert.is(stored.fileBytes, bytes)
    assert.equal(
      [...stored.tensors.keys()],
      testEntries.map((entry) => entry.name),
    )
    const data = readFileSync(join(target, 'model.safetensors'))
    for (const { name, offset, byteLength } of stored.tensors.values()) {
      const tensor = data.subarray(offset, offset + byteLength)
      assert.ok(
        tensor.every((byte) => byte === fillOf(name)),
        name,
      )
    }
  }))

test('equal contents give equal bytes', () =>
  inTemporaryDirectory(async (directory) => {
    for (const name of ['a', 'b']) await writeCheckpoint(join(directory, name), testContents())
    for (const file of readdirSync(join(directory, 'a'))) {
      assert.ok(readFileSync(join(directory, 'a', file)).equals(readFileSync(join(directory, 'b', file))), file)
    }
  }))

test('the plan is JSON with scores and whole curves, nine digits each', () => {
  const plan = testContents().plan
  const read = JSON.parse(planJson(plan)) as CompressionPlan
  assert.equal(read.budgets, [0.9, 0.7])
  assert.equal(read.scores, { 'model.layers.0.mlp.up_proj': 0.333333333 })
  assert.equal(read.curves, { 'model.layers.0.mlp.up_proj': [3, 0.666666667, 0] })
  assert.equal(JSON.parse(planJson({ ...plan, curves: {} })).curves, {})
  assert.throws(
    () => planJson({ ...plan, curves: { w: [1, Number.NaN] } }),
    (error: FlrcError) => error.code === 'E_NUMERIC' && error.tensor === 'w',
  )
})

test('the model card has front matter, levels and the measured table', () =>
  inTemporaryDirectory(async (directory) => {
    const card = {
      name: 'tiny',
      baseModel: 'org/tiny"model',
      license: 'apache-2.0',
      measured: {
        caption: 'Perplexity',
        columns: ['model', 'a|b'],
        rows: [
          ['dense', 32.3],
          ['x\ny', 40],
        ],
      },
    }
    await writeCheckpoint(join(directory, 'out'), testContents({ card }))
    const text = readFileSync(join(directory, 'out', 'README.md'), 'utf8')
    assert.match(
      text,
      /^---\nlibrary_name: flrc\n[\s\S]*base_model: "org\/tiny\\"model"\n[\s\S]*license: "apache-2.0"\n---\n/,
    )
    assert.match(text, '| 0 | 0.8900 | 1 | 2 to 2 | 1 |')
    assert.match(text, '| 1 | 0.7000 | 1 | 1 to 1 | 1 |')
    assert.match(text, '| model | a\\|b |\n| --- | --- |\n| dense | 32.3 |\n| x y | 40 |')
    assert.not.match(text, directory)
    assert.match(text, /a lower level uses fewer ranks[\s\S]*npx flrc generate \..*\nnpx flrc chat \.\n/)

    const { header, tokenizer } = testContents()
    const plain = testContents({
      header: { ...header, levels: header.levels.slice(0, 1) },
      tokenizer: { ...tokenizer, chatTemplate: undefined },
    })
    await writeCheckpoint(join(directory, 'plain'), plain)
    assert.not.match(readFileSync(join(directory, 'plain', 'README.md'), 'utf8'), /fewer ranks|flrc chat/)
  }))

test('what was measured is told by level, with the bytes of the dense model and of what is stored', () => {
  const measured = { windows: 1, tokens: 9, levels: [{ perplexity: 6 }, { perplexity: 7 }] }
  const heldOut = { ...measured, dense: { bytes: 3e6, perplexity: 5 } }
  assert.equal(heldOutTable(heldOut, { bytes: 2e6, budgets: [0.9, 0.7] }).rows, [
    ['dense', '1', '3.0', '5.00'],
    ['level 0', '0.9000', '2.0', '6.00'],
    ['level 1', '0.7000', '', '7.00'],
  ])
})

test('a large model is cut into shards with an index', () =>
  inTemporaryDirectory(async (directory) => {
    const target = join(directory, 'out')
    const { files } = await writeCheckpoint(target, testContents(), { shardBytes: 90 })
    assert.equal(files, [
      'model-00001-of-00003.safetensors',
      'model-00002-of-00003.safetensors',
      'model-00003-of-00003.safetensors',
      'model.safetensors.index.json',
    ])
    assert.is(readJson(target, 'model.safetensors.index.json').metadata.total_size, 160)
    const { tensors } = await readShardedSafetensors(target)
    assert.equal(
      [...tensors.keys()],
      testEntries.map((entry) => entry.name),
    )
    for (const { name, file, offset, byteLength } of tensors.values()) {
      const tensor = readFileSync(file).subarray(offset, offset + byteLength)
      assert.ok(
        tensor.every((byte) => byte === fillOf(name)),
        name,
      )
    }
  }))

test('shards keep the order; a tensor above the limit has one of its own', () => {
  const entries = [10, 50, 200, 5, 95, 1].map((byteLength, i) => ({
    name: `t${i}`,
    type: 'U8' as const,
    shape: [byteLength],
    byteLength,
  }))
  assert.equal(
    planShards(entries, 100).map((shard) => shard.map((entry) => entry.byteLength)),
    [[10, 50], [200], [5, 95], [1]],
  )
  assert.is(planShards(entries.slice(2, 4), 100).length, 2, 'none is empty')
})

test('a file that cannot be read is told so, not that it cannot be written', () =>
  inTemporaryDirectory(async (directory) => {
    const { message } = await failure(sha256OfFile(directory, undefined), 'E_IO')
    assert.is(message, `${directory}: cannot be read (EISDIR); check the file and its permissions`)
  }))

test('a dense export is a plain Hugging Face directory', () =>
  inTemporaryDirectory(async (directory) => {
    const target = join(directory, 'dense')
    const { tokenizer, generation, entries, writeTensors } = testContents()
    const config = { model_type: 'llama', dtype: 'float32' }
    await writeDenseModel(target, { config, tokenizer, generation, entries, writeTensors })
    assert.equal(readJson(target, 'config.json'), { model_type: 'llama', torch_dtype: 'bfloat16' })
    assert.not(existsSync(join(target, 'flrc-plan.json')))
    assert.is((await readSafetensors(join(target, 'model.safetensors'))).tensors.size, 4)
  }))

test('an existing target is refused, early and late, and stays as it was', () =>
  inTemporaryDirectory(async (directory) => {
    const target = join(directory, 'out')
    mkdirSync(target)
    const early = await failure(prepareTarget(target), 'E_EXISTS')
    assert.match(early.message, '--overwrite')
    assert.is(early.file, target)
    await failure(writeCheckpoint(target, testContents()), 'E_EXISTS')
    assert.equal(readdirSync(target), [])
    assert.equal(readdirSync(directory), ['out'])
  }))

test('overwriting destroys only empty directories and models', () =>
  inTemporaryDirectory(async (directory) => {
    const file = join(directory, 'file')
    writeFileSync(file, 'mine')
    const notes = join(directory, 'notes')
    mkdirSync(notes)
    writeFileSync(join(notes, 'thesis.md'), 'mine')
    const app = join(directory, 'app')
    mkdirSync(app)
    writeFileSync(join(app, 'config.json'), '{"port": 80}')
    const clone = join(directory, 'clone')
    mkdirSync(join(clone, '.git'), { recursive: true })
    writeFileSync(join(clone, 'config.json'), '{"model_type": "llama"}')
    for (const target of [file, notes, app, clone, '/']) {
      const error = await failure(prepareTarget(target, { overwrite: true }), 'E_EXISTS')
      assert.match(error.message, target)
      await failure(writeCheckpoint(target, testContents(), { overwrite: true }), 'E_EXISTS')
    }
    assert.is(readFileSync(file, 'utf8'), 'mine')
    assert.is(readFileSync(join(notes, 'thesis.md'), 'utf8'), 'mine')
    assert.equal(readdirSync(directory).sort(), ['app', 'clone', 'file', 'notes'])

    const empty = join(directory, 'empty')
    mkdirSync(empty)
    await writeCheckpoint(empty, testContents(), { overwrite: true })
    writeFileSync(join(empty, 'old.txt'), 'old')
    await writeCheckpoint(empty, testContents(), { overwrite: true })
    assert.ok(isWhole(empty))
    assert.not(existsSync(join(empty, 'old.txt')), 'replaced as a whole')
    assert.equal(readdirSync(directory).sort(), ['app', 'clone', 'empty', 'file', 'notes'])

    for (const source of [empty, join(empty, 'model.safetensors')]) {
      const error = await failure(prepareTarget(empty, { overwrite: true, source }), 'E_EXISTS')
      assert.match(error.message, 'holds the model that is read')
    }
    for (const source of [`${empty}er`, join(directory, 'file'), 'org/name']) {
      await prepareTarget(empty, { overwrite: true, source })
    }
  }))

test('a failed overwrite leaves the old checkpoint', () =>
  inTemporaryDirectory(async (directory) => {
    const target = join(directory, 'out')
    await writeCheckpoint(target, testContents())
    writeFileSync(join(target, 'mark'), 'old')
    const writeTensors = async () => {
      throw new FlrcError('E_NUMERIC', 'a weight is NaN')
    }
    await failure(writeCheckpoint(target, testContents({ writeTensors }), { overwrite: true }), 'E_NUMERIC')
    assert.is(readFileSync(join(target, 'mark'), 'utf8'), 'old')
    assert.equal(readdirSync(directory), ['out'])
  }))

test('an overwrite whose last rename fails puts the old checkpoint back', () =>
  inTemporaryDirectory(async (directory) => {
    const target = join(directory, 'out')
    await writeCheckpoint(target, testContents())
    writeFileSync(join(target, 'mark'), 'old')
    // A directory that is its own mount point cannot be renamed.
    let mounted: string | undefined
    const run = writeDirectory(target, { overwrite: true }, async (temporary) => {
      writeFileSync(join(temporary, 'config.json'), '{"model_type": "flrc"}')
      const { status } = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'none', temporary])
      if (status === 0) mounted = temporary
    })
    const outcome = await run.then(
      () => undefined,
      (error: unknown) => error,
    )
    if (mounted === undefined) {
      console.log('skipped: renaming back after a failed rename, missing the right to mount')
      return
    }
    spawnSync('umount', [mounted])
    assert.instance(outcome, FlrcError)
    assert.is((outcome as FlrcError).code, 'E_IO')
    assert.is(readFileSync(join(target, 'mark'), 'utf8'), 'old')
    assert.not(readdirSync(directory).some((name) => name.includes('.old-')))
  }))

test('missing parents are made, and removed again when it fails', () =>
  inTemporaryDirectory(async (directory) => {
    const target = join(directory, 'a', 'b', 'out')
    const writeTensors = () => Promise.reject(new FlrcError('E_NUMERIC', 'a weight is NaN'))
    await prepareTarget(target)
    await failure(writeCheckpoint(target, testContents({ writeTensors })), 'E_NUMERIC')
    assert.equal(readdirSync(directory), [])
    await writeCheckpoint(target, testContents())
    assert.ok(isWhole(target))
  }))

test('a link to a checkpoint stays a link', () =>
  inTemporaryDirectory(async (directory) => {
    const real = join(directory, 'real')
    const link = join(directory, 'link')
    await writeCheckpoint(real, testContents())
    writeFileSync(join(real, 'mark'), 'old')
    symlinkSync('real', link)
    await failure(writeCheckpoint(link, testContents()), 'E_EXISTS')
    await writeCheckpoint(link, testContents(), { overwrite: true })
    assert.ok(lstatSync(link).isSymbolicLink())
    assert.is(basename(realpathSync(link)), 'real')
    assert.not(existsSync(join(real, 'mark')))
    symlinkSync('nowhere', join(directory, 'dangling'))
    await failure(prepareTarget(join(directory, 'dangling'), { overwrite: true }), 'E_EXISTS')
  }))

test('an unusable path is an error before the work', () =>
  inTemporaryDirectory(async (directory) => {
    writeFileSync(join(directory, 'file'), '')
    const error = await failure(prepareTarget(join(directory, 'file', 'out')), 'E_IO')
    assert.match(error.message, 'file')
    await failure(prepareTarget(join(directory, 'x'.repeat(300))), 'E_IO')
    await failure(prepareTarget(''), 'E_USAGE')
    assert.equal(readdirSync(directory), ['file'])
  }))

test('a full disk is E_IO naming the file, and leaves nothing', () =>
  inTemporaryDirectory(async (directory) => {
    const target = join(directory, 'out')
    const noSpace = Object.assign(new Error('ENOSPC: no space left on device, write'), {
      code: 'ENOSPC',
      syscall: 'write',
    })
    let error = await failure(
      writeDirectory(target, {}, () => Promise.reject(noSpace)),
      'E_IO',
    )
    assert.match(error.message, target)
    assert.match(error.message, 'no space left')
    assert.equal(readdirSync(directory), [])

    const native = async (file: string) => {
      throw new FlrcError('E_IO', `${file}: no space left on the disk; free some`, { file })
    }
    error = await failure(writeCheckpoint(target, testContents({ writeTensors: native })), 'E_IO')
    assert.is(error.file, join(target, 'model.safetensors'), 'told as the user will find it')
    assert.not.match(error.message, '.tmp-')
    assert.equal(readdirSync(directory), [])
  }))

test('a disk that really fills up', () =>
  inTemporaryDirectory(async (directory) => {
    const { status } = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'none', directory])
    if (status !== 0) {
      console.log('skipped: a full disk, missing the right to mount one')
      return
    }
    try {
      const target = join(directory, 'out')
      for (const change of [
        { writeTensors: writeWithoutEnd },
        { generation: { text: 'x'.repeat(1 << 20) } },
        { entries: testEntries, plan: { ...testContents().plan, options: { text: 'x'.repeat(1 << 20) } } },
      ]) {
        const error = await failure(writeCheckpoint(target, testContents(change)), 'E_IO')
        assert.match(error.message, /out.*no space left/)
        assert.equal(readdirSync(directory), [])
      }
      await writeCheckpoint(target, testContents())
      assert.ok(isWhole(target), 'there is room for what fits')
    } finally {
      spawnSync('umount', [directory])
    }
  }))

test('an abort at any time leaves nothing', () =>
  inTemporaryDirectory(async (directory) => {
    const target = join(directory, 'out')
    await failure(writeCheckpoint(target, testContents(), { signal: AbortSignal.abort() }), 'E_ABORTED')
    assert.equal(readdirSync(directory), [])

    const during = new AbortController()
    const writeTensors = async (...call: Parameters<typeof writeFake>) => {
      await writeFake(...call)
      during.abort()
    }
    for (const shardBytes of [90, 5e9]) {
      const run = writeCheckpoint(target, testContents({ writeTensors }), { signal: during.signal, shardBytes })
      await failure(run, 'E_ABORTED')
      assert.equal(readdirSync(directory), [])
    }
  }))

test('a writer that leaves the file too short is found out', () =>
  inTemporaryDirectory(async (directory) => {
    const writeTensors = async (file: string) => writeFileSync(file, 'short')
    const error = await failure(
      writeCheckpoint(join(directory, 'out'), testContents({ writeTensors })),
      'E_INTERNAL',
    )
    assert.match(error.message, 'model.safetensors')
    assert.equal(readdirSync(directory), [])
  }))

const child = join(dirname(fileURLToPath(import.meta.url)), 'support', 'killed-writer.js')

async function killWhileWriting(target: string, mode: string): Promise<number> {
  const run = spawn(process.execPath, [child, target, mode], { stdio: ['ignore', 'pipe', 'inherit'] })
  const exited = once(run, 'exit')
  await Promise.race([once(run.stdout, 'data'), exited])
  assert.is(run.exitCode, null, 'the child is still writing')
  run.kill('SIGKILL')
  await exited
  return run.pid as number
}

test('a run killed while it writes leaves no target, and the next one cleans up', () =>
  inTemporaryDirectory(async (directory) => {
    const target = join(directory, 'out')
    const pid = await killWhileWriting(target, '')
    assert.not(existsSync(target))
    const left = readdirSync(directory)
    assert.is(left.length, 1)
    assert.match(left[0] as string, new RegExp(`^\\.out\\.tmp-${pid}-`))
    writeFileSync(join(directory, '.out.tmp-notes'), 'not ours')
    mkdirSync(join(directory, `.other.tmp-${pid}-0123456789ab`))
    mkdirSync(join(directory, '.out.tmp-1-0123456789ab'))
    await writeCheckpoint(target, testContents())
    assert.ok(isWhole(target))
    assert.equal(
      readdirSync(directory).sort(),
      ['.other.tmp-', '.out.tmp-1-0123456789ab', '.out.tmp-notes', 'out'].map((name) =>
        name === '.other.tmp-' ? `.other.tmp-${pid}-0123456789ab` : name,
      ),
      'only dead runs of this target are cleaned up after',
    )
  }))

test('an overwriting run killed while it writes leaves the old checkpoint', () =>
  inTemporaryDirectory(async (directory) => {
    const target = join(directory, 'out')
    await writeCheckpoint(target, testContents())
    writeFileSync(join(target, 'mark'), 'old')
    await killWhileWriting(target, 'overwrite')
    assert.is(readFileSync(join(target, 'mark'), 'utf8'), 'old')
    await prepareTarget(target, { overwrite: true })
    assert.equal(readdirSync(directory), ['out'])
  }))

test('a run killed between its two renames is undone by the next', () =>
  inTemporaryDirectory(async (directory) => {
    const target = join(directory, 'out')
    await writeCheckpoint(target, testContents())
    // What such a run leaves: the old directory aside, the new one not yet in place.
    const { pid } = spawnSync(process.execPath, ['-e', ''])
    const moved = spawnSync('mv', [target, join(directory, `.out.old-${pid}-0123456789ab`)])
    assert.is(moved.status, 0)
    await failure(prepareTarget(target), 'E_EXISTS')
    assert.ok(isWhole(target))
    assert.equal(readdirSync(directory), ['out'])
  }))

test('two runs for one target: one wins, whole, and the other says so', () =>
  inTemporaryDirectory(async (directory) => {
    const target = join(directory, 'out')
    const outcomes = await Promise.allSettled([0, 1].map(() => writeCheckpoint(target, testContents())))
    assert.equal(outcomes.map(({ status }) => status).sort(), ['fulfilled', 'rejected'])
    const reasons = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason] : []))
    assert.equal(
      reasons.map((reason: FlrcError) => reason.code),
      ['E_EXISTS'],
    )
    assert.ok(isWhole(target))
    assert.equal(readdirSync(directory), ['out'])
  }))

test('the hash of one file is its own, of several that of their list', () =>
  inTemporaryDirectory(async (directory) => {
    const [a, b] = [join(directory, 'a'), join(directory, 'b')]
    writeFileSync(a, 'abc')
    writeFileSync(b, '')
    assert.is(await sha256OfFiles([a]), 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad')
    const sums = spawnSync('sha256sum', ['a', 'b'], { cwd: directory, encoding: 'utf8' }).stdout
    writeFileSync(join(directory, 'sums'), sums)
    assert.is(await sha256OfFiles([b, a]), await sha256OfFiles([join(directory, 'sums')]))
    await failure(sha256OfFiles([join(directory, 'missing')]), 'E_NOT_FOUND')
  }))

test('a schedule is stored in config.json, which else stays as it is', () =>
  inTemporaryDirectory(async (directory) => {
    const target = join(directory, 'out')
    await writeCheckpoint(target, testContents())
    const before = readJson(target, 'config.json')
    const files = readdirSync(target).sort()
    await storeSchedule(target, 'linear:.9:.7:32')
    await storeSchedule(target, 'cosine:.9:.7:16')
    assert.equal(readJson(target, 'config.json'), {
      ...before,
      flrc: { ...before.flrc, schedule: 'cosine:.9:.7:16' },
    })
    assert.is(flrcHeader(readJson(target, 'config.json').flrc, 'config.json').schedule, 'cosine:.9:.7:16')
    assert.equal(readdirSync(target).sort(), files)
  }))

test('what is no schedule, or no checkpoint to store it in, changes nothing', () =>
  inTemporaryDirectory(async (directory) => {
    const target = join(directory, 'out')
    await writeCheckpoint(target, testContents())
    const before = readFileSync(join(target, 'config.json'), 'utf8')
    for (const schedule of ['', 'linear:.9', 'calibrated']) {
      await failure(storeSchedule(target, schedule), 'E_USAGE')
    }
    assert.is(readFileSync(join(target, 'config.json'), 'utf8'), before)
    writeFileSync(join(directory, 'config.json'), JSON.stringify({ model_type: 'llama' }))
    await failure(storeSchedule(directory, 'full'), 'E_USAGE')
    await failure(storeSchedule(join(directory, 'nothing'), 'full'), 'E_NOT_FOUND')
    assert.equal(readJson(directory, 'config.json'), { model_type: 'llama' })
  }))

test.run()
