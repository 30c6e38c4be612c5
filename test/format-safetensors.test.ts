import { mkdirSync, readFileSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import {
  headerLimit,
  readSafetensors,
  readShardedSafetensors,
  safetensorsHeader,
  tensorSource,
} from '#lib/format/safetensors.js'
import { type ExpectedError, throwsFlrcError } from './support/flrc-error.js'
import { fixture, temporaryDirectory } from './support/paths.js'
import { rawSafetensors, safetensorsBytes, writeSafetensors } from './support/safetensors-writer.js'

const directory = temporaryDirectory()
const file = join(directory, 'x.safetensors')

test('reads names, types, shapes and absolute offsets', async () => {
  writeSafetensors(
    file,
    [
      { name: 'a', shape: [2, 3] },
      { name: 'b', dtype: 'BF16', shape: [] },
      { name: 'empty', shape: [0, 5] },
    ],
    { format: 'pt' },
  )
  const read = await readSafetensors(file)
  const start = read.fileBytes - 26
  assert.equal(
    [...read.tensors.values()].map((t) => [t.name, t.dtype, t.shape, t.offset - start, t.byteLength]),
    [
      ['a', 'F32', [2, 3], 0, 24],
      ['b', 'BF16', [], 24, 2],
      ['empty', 'F32', [0, 5], 26, 0],
    ],
  )
  assert.equal(read.metadata, { format: 'pt' })
})

test('reads a file that Python wrote, to the same values', async () => {
  const path = fixture('llama', 'model.safetensors')
  const { tensors } = await readSafetensors(path)
  const norm = tensors.get('model.norm.weight')
  assert.ok(norm)
  assert.equal([norm.dtype, norm.shape, norm.byteLength], ['F32', [32], 128])
  const bytes = readFileSync(path)
  const values = Array.from({ length: 32 }, (_, i) => bytes.readFloatLE(norm.offset + 4 * i))
  // Norm weights of the fixture are drawn from a normal distribution; other bytes are nothing like it.
  assert.ok(values.every((value) => Math.abs(value) > 1e-6 && Math.abs(value) < 6))
})

const entry = (shape: unknown, begin: unknown, end: unknown, dtype: unknown = 'F32') => ({
  dtype,
  shape,
  data_offsets: [begin, end],
})
const eight = new Uint8Array(8)

const bad: [what: string, bytes: Buffer, expected: Partial<ExpectedError>][] = [
  ['empty file', Buffer.alloc(0), { message: /0 bytes/ }],
  ['no header', Buffer.alloc(7), { message: /7 bytes/ }],
  ['header longer than the file', rawSafetensors({}, eight, 1000), { message: /cut: header of 1000 bytes/ }],
  ['header beyond the limit', rawSafetensors({}, eight, headerLimit + 1), { message: /allowed/ }],
  ['header length of 2^63', rawSafetensors({}, eight, 2 ** 63), { message: /allowed/ }],
  ['no JSON', rawSafetensors('hello', eight), { message: /not valid JSON/ }],
  ['a list', rawSafetensors('[]', eight), { message: /no JSON object/ }],
  ['an entry that is null', rawSafetensors({ a: null }, eight), { tensor: 'a' }],
  ['no dtype', rawSafetensors({ a: { shape: [2], data_offsets: [0, 8] } }, eight), { tensor: 'a' }],
  ['a negative size', rawSafetensors({ a: entry([-2], 0, 8) }, eight), { tensor: 'a' }],
  ['a fractional size', rawSafetensors({ a: entry([1.5], 0, 8) }, eight), { tensor: 'a' }],
  ['a size beyond 2^53', rawSafetensors({ a: entry([1e300], 0, 8) }, eight), { tensor: 'a' }],
  ['sizes that overflow', rawSafetensors({ a: entry([2 ** 40, 2 ** 40], 0, 8) }, eight), { tensor: 'a' }],
  ['too many dimensions', rawSafetensors({ a: entry(Array(17).fill(1), 0, 4) }, eight), { tensor: 'a' }],
  ['shape and bytes at odds', rawSafetensors({ a: entry([3], 0, 8) }, eight), { tensor: 'a', message: /12/ }],
  ['end before begin', rawSafetensors({ a: entry([0], 8, 4) }, eight), { tensor: 'a', message: /before/ }],
  ['end past the file', rawSafetensors({ a: entry([4], 0, 16) }, eight), { tensor: 'a', message: /cut/ }],
  [
    'overlap',
    rawSafetensors({ a: entry([2], 0, 8), b: entry([1], 4, 8) }, eight),
    { tensor: 'b', message: /overlaps tensor a/ },
  ],
  ['hole before the first', rawSafetensors({ a: entry([1], 4, 8) }, eight), { tensor: 'a', message: /hole/ }],
  [
    'hole between',
    rawSafetensors({ a: entry([1], 0, 4), b: entry([1], 8, 12) }, new Uint8Array(12)),
    { tensor: 'b', message: /hole/ },
  ],
  ['bytes left over', rawSafetensors({ a: entry([1], 0, 4) }, eight), { message: /after the last/ }],
  [
    'a name twice',
    rawSafetensors(
      '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"\\u0061":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
      new Uint8Array(4),
    ),
    { tensor: 'a', message: /twice/ },
  ],
  ['metadata of numbers', rawSafetensors({ __metadata__: { a: 1 } }, new Uint8Array(0)), { message: /map/ }],
  ['deeply nested JSON', rawSafetensors(`{"a":${'['.repeat(1e6)}${']'.repeat(1e6)}}`, eight), {}],
]

for (const [what, bytes, expected] of bad) {
  test(`refuses ${what}`, async () => {
    writeFileSync(file, bytes)
    await throwsFlrcError(() => readSafetensors(file), { code: 'E_MODEL_FORMAT', file, ...expected })
  })
}

test('says that a truncated file is cut, wherever', async () => {
  const bytes = safetensorsBytes([
    { name: 'a', shape: [64] },
    { name: 'b', shape: [64] },
  ])
  for (const length of [bytes.length - 1, bytes.length - 300, 60]) {
    writeFileSync(file, bytes)
    truncateSync(file, length)
    await throwsFlrcError(() => readSafetensors(file), { code: 'E_MODEL_FORMAT', file, message: /cut/ })
  }
})

test('a tensor may be called __proto__ or constructor and harms nothing', async () => {
  const header = `{"__proto__":${JSON.stringify(entry([1], 0, 4))},"constructor":${JSON.stringify(entry([1], 4, 8))}}`
  writeFileSync(file, rawSafetensors(header, eight))
  const { tensors } = await readSafetensors(file)
  assert.equal([...tensors.keys()], ['__proto__', 'constructor'])
  assert.is(Object.hasOwn(Object.prototype, 'dtype'), false)
})

test('a hundred thousand tensors take no more than seconds', async () => {
  const tensors = Array.from({ length: 100_000 }, (_, i) => ({ name: `t${i}`, shape: [1] }))
  writeSafetensors(file, tensors)
  const begin = performance.now()
  assert.is((await readSafetensors(file)).tensors.size, 100_000)
  assert.ok(performance.now() - begin < 10_000)
})

test('unknown and unusable types fail only where the tensor is used', async () => {
  writeFileSync(
    file,
    rawSafetensors({ a: entry([8], 0, 8, 'F8_E4M3'), b: entry([2], 8, 11, 'F12') }, new Uint8Array(11)),
  )
  const { tensors } = await readSafetensors(file)
  for (const name of ['a', 'b']) {
    const tensor = tensors.get(name)
    assert.ok(tensor)
    await throwsFlrcError(() => tensorSource(tensor, ['F32']), {
      code: 'E_UNSUPPORTED_TYPE',
      file,
      tensor: name,
      message: /supported are F32/,
    })
  }
})

test('a missing file, a directory and a pipe are told apart', async () => {
  await throwsFlrcError(() => readSafetensors(join(directory, 'none')), { code: 'E_NOT_FOUND' })
  await throwsFlrcError(() => readSafetensors(directory), { code: 'E_MODEL_FORMAT', message: /regular/ })
})

const shards = join(directory, 'sharded')
const index = join(shards, 'model.safetensors.index.json')
const writeIndex = (map: Record<string, unknown>) =>
  writeFileSync(index, JSON.stringify({ metadata: {}, weight_map: map }))

test('reads tensors of many files', async () => {
  mkdirSync(shards)
  writeSafetensors(join(shards, 'one.safetensors'), [{ name: 'a', shape: [2] }])
  writeSafetensors(join(shards, 'two.safetensors'), [{ name: 'b', shape: [3] }])
  writeIndex({ a: 'one.safetensors', b: 'two.safetensors' })
  const { tensors, fileBytes } = await readShardedSafetensors(shards)
  assert.is(tensors.get('b')?.file, join(shards, 'two.safetensors'))
  assert.equal([...tensors.keys()].sort(), ['a', 'b'])
  const sizes = ['one', 'two'].map((name) => readFileSync(join(shards, `${name}.safetensors`)).length)
  assert.is(
    fileBytes,
    sizes.reduce((a, b) => a + b),
  )
})

test('refuses shard names that leave the directory', async () => {
  writeSafetensors(join(directory, 'outside.safetensors'), [{ name: 'a', shape: [2] }])
  symlinkSync(join(directory, 'outside.safetensors'), join(shards, 'link.safetensors'))
  for (const name of [
    '../outside.safetensors',
    join(directory, 'outside.safetensors'),
    'sub/../../outside.safetensors',
    '..\\outside.safetensors',
    'link.safetensors',
    'one.safetensors\0',
    '',
    '..',
    'config.json',
  ]) {
    writeIndex({ a: name })
    await throwsFlrcError(() => readShardedSafetensors(shards), { code: 'E_MODEL_FORMAT', file: index })
  }
})

test("follows a hub cache's links to its blobs, and to nothing else", async () => {
  const repository = join(directory, 'models--o--n')
  const snapshot = join(repository, 'snapshots', 'abc')
  mkdirSync(snapshot, { recursive: true })
  mkdirSync(join(repository, 'blobs'))
  writeSafetensors(join(repository, 'blobs', '1234'), [{ name: 'a', shape: [2] }])
  symlinkSync('../../blobs/1234', join(snapshot, 's.safetensors'))
  symlinkSync(join(directory, 'outside.safetensors'), join(snapshot, 'away.safetensors'))
  const list = join(snapshot, 'model.safetensors.index.json')
  writeFileSync(list, JSON.stringify({ weight_map: { a: 's.safetensors' } }))
  assert.is((await readShardedSafetensors(snapshot)).tensors.size, 1)
  writeFileSync(list, JSON.stringify({ weight_map: { a: 'away.safetensors' } }))
  await throwsFlrcError(() => readShardedSafetensors(snapshot), {
    code: 'E_MODEL_FORMAT',
    message: /leads out/,
  })
})

test('refuses an index that does not fit its shards', async () => {
  writeIndex({ a: 'one.safetensors', b: 'one.safetensors' })
  await throwsFlrcError(() => readShardedSafetensors(shards), { code: 'E_MODEL_FORMAT', tensor: 'b' })
  writeIndex({ a: 'absent.safetensors' })
  await throwsFlrcError(() => readShardedSafetensors(shards), { code: 'E_NOT_FOUND' })
  writeIndex({ a: 5 })
  await throwsFlrcError(() => readShardedSafetensors(shards), { code: 'E_MODEL_FORMAT', file: index })
  writeFileSync(index, '{"weight_map": ')
  await throwsFlrcError(() => readShardedSafetensors(shards), { code: 'E_MODEL_FORMAT', file: index })
})

test('what is written is read back', async () => {
  const entries = [
    { name: 'w.P.0', type: 'BF16' as const, shape: [3, 5], byteLength: 30 },
    { name: 'w.I.0', type: 'I32' as const, shape: [3], byteLength: 12 },
    { name: 'q', type: 'U8' as const, shape: [2, 2], byteLength: 4 },
  ]
  const { header, offsets, fileBytes } = safetensorsHeader(entries, { made: 'here' })
  assert.is(header.length % 8, 0)
  writeFileSync(file, Buffer.concat([header, new Uint8Array(46)]))
  const read = await readSafetensors(file)
  assert.is(read.fileBytes, fileBytes)
  assert.equal(read.metadata, { format: 'pt', made: 'here' })
  assert.equal(
    entries.map(({ name }) => read.tensors.get(name)?.offset),
    offsets,
  )
})

test('refuses to write what no reader takes', async () => {
  const entry = { name: 'a', type: 'F32' as const, shape: [2], byteLength: 8 }
  await throwsFlrcError(() => safetensorsHeader([entry, entry]), { code: 'E_INTERNAL', tensor: 'a' })
  await throwsFlrcError(() => safetensorsHeader([{ ...entry, byteLength: 7 }]), { code: 'E_INTERNAL' })
  await throwsFlrcError(() => safetensorsHeader([{ ...entry, name: '__metadata__' }]), { code: 'E_INTERNAL' })
})

test.run()
