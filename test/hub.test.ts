import { lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { type HubReference, parseHubReference } from '#lib/hub/reference.js'
import { type CachedModel, fetchModel } from '#lib/hub.js'
import { complete, inspect, Model, type Progress } from '#lib/index.js'
import { inTemporaryDirectory } from './support/checkpoint.js'
import { runCli, tinyModel } from './support/child.js'
import { throwsFlrcError } from './support/flrc-error.js'
import { commit, etagOf, HubServer, type Repository } from './support/hub-server.js'

const tiny = (file: string) => readFileSync(path.join(tinyModel, file))
const weights = tiny('model.safetensors')
const weightsEtag = etagOf(weights)

/** The embedded model as a repository, with files that no load needs. */
const files: Repository['files'] = {
  '.gitattributes': '*.safetensors filter=lfs',
  'README.md': 'a card',
  'config.json': tiny('config.json'),
  'generation_config.json': tiny('generation_config.json'),
  'model.safetensors': weights,
  'pytorch_model.bin': Buffer.alloc(200_000),
  'tokenizer.json': tiny('tokenizer.json'),
  'tokenizer_config.json': tiny('tokenizer_config.json'),
}
const needed = [
  'config.json',
  'generation_config.json',
  'model.safetensors',
  'tokenizer.json',
  'tokenizer_config.json',
]

/** Gives the run a server and an empty cache of its own, and the environment that leads there. */
async function withHub(
  repository: Partial<Repository>,
  run: (hub: HubServer, repo: string) => Promise<void>,
): Promise<void> {
  const hub = await HubServer.start({ id: 'org/tiny', files, ...repository })
  const before = { ...process.env }
  try {
    await inTemporaryDirectory(async (home) => {
      for (const name of ['HF_HUB_CACHE', 'HF_TOKEN', 'HF_TOKEN_PATH', 'HF_HUB_OFFLINE'])
        delete process.env[name]
      process.env.HF_HOME = home
      process.env.HF_ENDPOINT = hub.endpoint
      await run(hub, path.join(home, 'hub', 'models--org--tiny'))
    })
  } finally {
    process.env = before
    await hub.close()
  }
}

function fetchTiny(text = 'org/tiny', task = {}): Promise<CachedModel> {
  return fetchModel(parseHubReference(text) as HubReference, task)
}

const blobs = (repo: string) => readdirSync(path.join(repo, 'blobs')).sort()
const snapshot = (repo: string) => path.join(repo, 'snapshots', commit)

const reading = suite('references')

reading('what is a hub id and what is a path', () => {
  const of = (repo: string, file?: string, revision = 'main') => ({ repo, file, revision })
  assert.equal(parseHubReference('org/name'), of('org/name'))
  assert.equal(parseHubReference('org/name@v1.0'), of('org/name', undefined, 'v1.0'))
  assert.equal(parseHubReference('org/name@refs/pr/1'), of('org/name', undefined, 'refs/pr/1'))
  assert.equal(parseHubReference('o/n-GGUF/sub/a.Q4_1.gguf@x'), of('o/n-GGUF', 'sub/a.Q4_1.gguf', 'x'))
  for (const text of [
    ...['name', './org/name', '../name', '/org/name', 'a/b/c', 'org/x.gguf', 'org/model.safetensors', ''],
    ...['org/name@', 'org/name@../../x', 'org/../x.gguf', 'org/name/../x.gguf', 'org/.name', 'C:\\a\\b'],
  ]) {
    assert.is(parseHubReference(text), undefined, text)
  }
})

const fetching = suite('downloading')

fetching('brings what a load needs, and nothing else, into the layout of the Python library', () =>
  withHub({}, async (hub, repo) => {
    const seen: Progress[] = []
    const found = await fetchTiny('org/tiny', { onProgress: (progress: Progress) => seen.push(progress) })
    assert.equal(found, { path: snapshot(repo), commit })
    assert.equal(readdirSync(found.path).sort(), needed)
    for (const name of needed) {
      const link = readlinkSync(path.join(found.path, name))
      assert.is(link, path.join('..', '..', 'blobs', etagOf(files[name] as Buffer)))
      assert.equal(readFileSync(path.join(found.path, name)), files[name])
    }
    assert.equal(blobs(repo), needed.map((name) => etagOf(files[name] as Buffer)).sort())
    assert.is(readFileSync(path.join(repo, 'refs', 'main'), 'utf8'), commit)
    const last = seen.at(-1)
    assert.equal(last, {
      stage: 'download weights',
      done: weights.length,
      total: weights.length,
      unit: 'bytes',
    })
    assert.is(hub.downloads.length, needed.length)

    await fetchTiny()
    assert.is(hub.downloads.length, needed.length, 'the second time all is there')
  }),
)

fetching('a model loads by its id, and its checkpoint says from where', () =>
  withHub({ refs: ['main', 'v1'] }, async (_hub, repo) => {
    const model = await Model.load('org/tiny')
    try {
      assert.equal(model.source.hub, { id: 'org/tiny', revision: commit })
      const { text } = await complete(model.generate('Once upon', { maxTokens: 4 }))
      assert.ok(text.length > 0)
    } finally {
      model.dispose()
    }
    assert.is((await inspect('org/tiny@v1')).format, 'huggingface')
    assert.is(readFileSync(path.join(repo, 'refs', 'v1'), 'utf8'), commit)
    assert.is((await inspect(`org/tiny@${commit}`)).format, 'huggingface')
    assert.equal(readdirSync(path.join(repo, 'refs')).sort(), ['main', 'v1'], 'a commit needs no ref')

    const small = path.join(path.dirname(repo), 'small')
    const args = ['compress', 'org/tiny@v1', '-o', small, '--keep', '.8', '--method', 'uniform']
    const ended = await runCli([...args, '--samples', '2', '--seq-len', '32', '--json'])
    assert.is(ended.code, 0, ended.stderr)
    const plan = JSON.parse(readFileSync(path.join(small, 'flrc-plan.json'), 'utf8'))
    assert.equal(plan.model, { id: 'org/tiny', revision: commit, sha256: weightsEtag, bytes: weights.length })
    assert.match(readFileSync(path.join(small, 'README.md'), 'utf8'), /base_model: "org\/tiny"/)
  }),
)

fetching('shards are those that the index names', () => {
  const names = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'] as const
  const index = JSON.stringify({ weight_map: { a: names[0], b: names[1], c: names[0] } })
  const { 'model.safetensors': _single, ...others } = files
  const sharded = {
    ...others,
    'model.safetensors.index.json': index,
    [names[0]]: Buffer.alloc(150_000, 1),
    [names[1]]: Buffer.alloc(50, 2),
    'model-00003-of-00002.safetensors': Buffer.alloc(50, 3),
  }
  return withHub({ files: sharded }, async () => {
    const { path: folder } = await fetchTiny()
    process.env.HF_HUB_OFFLINE = '1'
    assert.is((await fetchTiny()).path, folder)
    const shards = readdirSync(folder).filter((name) => name.startsWith('model'))
    assert.equal(shards.sort(), [...names, 'model.safetensors.index.json'])
    rmSync(path.join(folder, names[1]))
    await throwsFlrcError(() => fetchTiny(), { code: 'E_HUB', message: /nor is all of it in the cache/ })
  })
})

fetching('a file that the index names but nobody has, or that leads out, is refused', async () => {
  const { 'model.safetensors': _single, ...others } = files
  for (const name of ['absent.safetensors', '../../../evil.safetensors']) {
    const index = JSON.stringify({ weight_map: { a: name } })
    const evil = { ...others, 'model.safetensors.index.json': index, '../../../evil.safetensors': 'x' }
    await withHub({ files: evil }, async () => {
      await throwsFlrcError(() => fetchTiny(), { code: 'E_HUB', message: /has no file .*\.safetensors/ })
    })
  }
})

fetching('of GGUF files one must be named', () => {
  const ggufs = { 'README.md': 'x', 'a.Q4_1.gguf': Buffer.alloc(120_000, 7), 'sub/b.gguf': Buffer.alloc(9) }
  return withHub({ files: ggufs }, async (hub, repo) => {
    await throwsFlrcError(() => fetchTiny(), {
      code: 'E_MODEL_FORMAT',
      message: /GGUF files only; name one of them: org\/tiny\/a\.Q4_1\.gguf$/,
    })
    const { path: file } = await fetchTiny('org/tiny/a.Q4_1.gguf')
    assert.is(file, path.join(snapshot(repo), 'a.Q4_1.gguf'))
    assert.equal(readFileSync(file), ggufs['a.Q4_1.gguf'])
    await fetchTiny('org/tiny/sub/b.gguf')
    assert.equal(readFileSync(path.join(snapshot(repo), 'sub', 'b.gguf')), ggufs['sub/b.gguf'])
    await throwsFlrcError(() => fetchTiny('org/tiny/c.gguf'), {
      code: 'E_NOT_FOUND',
      message: /no such file; it has a\.Q4_1\.gguf/,
    })
    assert.is(hub.downloads.length, 2)
  })
})

fetching('of a split GGUF file all parts are brought', () => {
  const parts = ['m-00001-of-00002.gguf', 'm-00002-of-00002.gguf']
  const split = Object.fromEntries(parts.map((name, i) => [name, Buffer.alloc(120_000, i)]))
  return withHub({ files: { ...split, 'n-00001-of-00002.gguf': Buffer.alloc(9) } }, async (hub, repo) => {
    const { path: file } = await fetchTiny('org/tiny/m-00001-of-00002.gguf')
    assert.is(file, path.join(snapshot(repo), parts[0] ?? ''))
    assert.equal(readdirSync(snapshot(repo)).sort(), parts)
    assert.is(hub.downloads.length, 2)
    await throwsFlrcError(() => fetchTiny('org/tiny/n-00001-of-00002.gguf'), {
      code: 'E_NOT_FOUND',
      message: /n-00002-of-00002\.gguf: the repository has no such file/,
    })
    process.env.HF_HUB_OFFLINE = '1'
    assert.is(
      (await fetchTiny('org/tiny/m-00002-of-00002.gguf')).path,
      path.join(snapshot(repo), parts[1] ?? ''),
    )
    rmSync(path.join(snapshot(repo), parts[1] ?? ''))
    await throwsFlrcError(() => fetchTiny('org/tiny/m-00001-of-00002.gguf'), { code: 'E_HUB' })
  })
})

fetching('repositories without readable weights say why', async () => {
  const { 'model.safetensors': _weights, ...pickled } = files
  const { 'pytorch_model.bin': _pickled, ...none } = pickled
  const { 'tokenizer.json': _tokenizer, ...untokenized } = files
  for (const [contents, message] of [
    [pickled, /pytorch_model\.bin.*safetensors/],
    [none, /no model\.safetensors/],
    [untokenized, /no tokenizer\.json/],
  ] as const) {
    await withHub({ files: contents }, async (hub) => {
      await throwsFlrcError(() => fetchTiny(), { code: 'E_MODEL_FORMAT', file: 'org/tiny', message })
      assert.is(hub.downloads.length, 0)
    })
  }
})

const breaking = suite('interruptions and checksums')

breaking('a broken connection is taken up where it broke', () =>
  withHub({}, async (hub, repo) => {
    hub.faults.cutAfter = { bytes: 1_000_000, times: 2 }
    await fetchTiny()
    assert.equal(readFileSync(path.join(snapshot(repo), 'model.safetensors')), weights)
    const [first, ...resumed] = hub.downloads.filter(({ url }) => url.endsWith('model.safetensors'))
    assert.is(first?.range, undefined)
    assert.ok(resumed.length >= 1)
    for (const { range } of resumed)
      assert.match(range ?? '', new RegExp(`^bytes=[1-9]\\d*-${weights.length - 1}$`))
  }),
)

breaking('what lies in Xet storage comes over its bridge of plain HTTP, resumed and checked alike', () =>
  withHub({ xet: true }, async (hub, repo) => {
    hub.faults.cutAfter = { bytes: 1_000_000, times: 1 }
    await fetchTiny()
    assert.equal(readFileSync(path.join(snapshot(repo), 'model.safetensors')), weights)
    assert.ok(blobs(repo).includes(weightsEtag), 'named by its SHA-256, not by the hash of Xet')
    const [begun, resumed] = hub.requests.filter(({ url }) => url === `/${weightsEtag}`)
    assert.is(begun?.range, undefined)
    assert.match(resumed?.range ?? '', new RegExp(`^bytes=[1-9]\\d*-${weights.length - 1}$`))
    const asked = hub.requests.filter(({ url }) => /^\/(token|reconstruction)\//.test(url))
    assert.equal(asked, [], 'nothing of the protocol of Xet')
  }),
)

breaking('an aborted download ends at once, leaves nothing that looks whole, and is gone on with', () =>
  withHub({}, async (hub, repo) => {
    hub.faults.stallAfter = 1_500_000
    const abort = new AbortController()
    let abortedAt = 0
    const onProgress = ({ stage, done }: Progress) => {
      if (abortedAt > 0 || stage !== 'download weights' || done < 1_000_000) return
      abortedAt = performance.now()
      abort.abort()
    }
    await throwsFlrcError(() => fetchTiny('org/tiny', { signal: abort.signal, onProgress }), {
      code: 'E_ABORTED',
    })
    assert.ok(performance.now() - abortedAt < 100)
    assert.not.ok(readdirSync(repo).includes('refs'))
    assert.not.ok(readdirSync(snapshot(repo)).includes('model.safetensors'))
    const incomplete = path.join(repo, 'blobs', `${weightsEtag}.incomplete`)
    const kept = lstatSync(incomplete).size
    assert.ok(kept >= 1_000_000 && kept < weights.length)

    hub.faults = {}
    await fetchTiny()
    assert.is(hub.downloads.at(-1)?.range, `bytes=${kept}-${weights.length - 1}`)
    assert.equal(readFileSync(path.join(snapshot(repo), 'model.safetensors')), weights)
    assert.not.ok(blobs(repo).some((name) => name.endsWith('.incomplete')))
  }),
)

breaking('Ctrl-C while downloading exits 130', () =>
  withHub({}, async (hub, repo) => {
    hub.faults.stallAfter = 1_500_000
    const incomplete = path.join(repo, 'blobs', `${weightsEtag}.incomplete`)
    const ended = await runCli(['inspect', 'org/tiny'], {
      onStart: (child) => {
        const timer = setInterval(() => {
          if ((lstatSync(incomplete, { throwIfNoEntry: false })?.size ?? 0) < 1_000_000) return
          clearInterval(timer)
          child.kill('SIGINT')
        }, 20)
      },
    })
    assert.is(ended.code, 130, ended.stderr)
    assert.match(ended.stderr, /flrc: E_ABORTED/)
  }),
)

breaking('bytes that are not those listed are refused and not kept', async () => {
  for (const xet of [false, true]) {
    await withHub({ xet }, async (hub, repo) => {
      hub.faults.spoil = (content) => Buffer.concat([content.subarray(0, -1), Buffer.from('X')])
      await throwsFlrcError(() => fetchTiny(), { code: 'E_HUB', message: /model\.safetensors: .*checksum/ })
      assert.not.ok(blobs(repo).some((name) => name.startsWith(weightsEtag)))
      assert.not.ok(readdirSync(snapshot(repo)).includes('model.safetensors'))

      hub.faults.spoil = (content) => Buffer.concat([content, Buffer.from('X')])
      await throwsFlrcError(() => fetchTiny(), { code: 'E_HUB', message: /checksum/ })
    })
  }
})

breaking('a spoiled beginning from an earlier run is replaced', async () => {
  for (const left of [Buffer.alloc(1000, 1), Buffer.alloc(weights.length + 1, 1)]) {
    await withHub({}, async (_hub, repo) => {
      mkdirSync(path.join(repo, 'blobs'), { recursive: true })
      writeFileSync(path.join(repo, 'blobs', `${weightsEtag}.incomplete`), left)
      await fetchTiny()
      assert.equal(readFileSync(path.join(snapshot(repo), 'model.safetensors')), weights)
    })
  }
})

breaking('loads at the same time share the cache', () =>
  withHub({}, async (_hub, repo) => {
    await Promise.all([fetchTiny(), fetchTiny(), fetchTiny()])
    assert.equal(readFileSync(path.join(snapshot(repo), 'model.safetensors')), weights)
    assert.equal(blobs(repo), needed.map((name) => etagOf(files[name] as Buffer)).sort())
  }),
)

const refusing = suite('access and the network')

refusing('the token goes to the hub and to nobody else', () =>
  withHub({}, async (hub) => {
    process.env.HF_TOKEN = 'hf_secret'
    await fetchTiny()
    for (const { url, authorization } of hub.requests) {
      const own = url.startsWith('/api/') || url.startsWith('/org/')
      assert.is(authorization, own ? 'Bearer hf_secret' : undefined, url)
    }
    process.env.HF_TOKEN = 'something'
    await throwsFlrcError(() => fetchTiny(), { code: 'E_HUB', message: /HF_TOKEN.*hf_/ })
  }),
)

refusing('a token lies where the Python library looks for it', () =>
  withHub({}, async (hub, repo) => {
    const home = path.join(repo, '..', '..')
    for (const name of ['token', 'mine']) writeFileSync(path.join(home, name), `hf_${name}\n`)
    await fetchTiny()
    process.env.HF_TOKEN_PATH = path.join(home, 'mine')
    await fetchTiny()
    const told = new Set(hub.requests.map(({ authorization }) => authorization))
    assert.equal([...told].filter(Boolean), ['Bearer hf_token', 'Bearer hf_mine'])
  }),
)

refusing('refusals have a code and a remedy', async () => {
  for (const [status, token, code, message] of [
    [401, '', 'E_HUB', /private or gated; check the name, or set HF_TOKEN/],
    [403, 'hf_x', 'E_HUB', /private or gated; .*accept its terms at http:.*\/org\/tiny/],
    [404, '', 'E_NOT_FOUND', /no such file or directory here, and the hub .* has no such model/],
    [429, '', 'E_HUB', /status 429/],
    [503, '', 'E_HUB', /status 503/],
  ] as const) {
    await withHub({ status }, async (hub, repo) => {
      if (token) process.env.HF_TOKEN = token
      await throwsFlrcError(() => fetchTiny(), { code, file: 'org/tiny', message })
      assert.is(hub.requests.length > 1, [429, 503].includes(status), 'only what may pass is tried again')
      assert.is(lstatSync(repo, { throwIfNoEntry: false }), undefined, 'nothing is written')
    })
  }
  await withHub({}, async () => {
    await throwsFlrcError(() => fetchTiny('org/tiny@v9'), { code: 'E_NOT_FOUND', message: /revision/ })
    const ended = await runCli(['inspect', 'org/other', '--json'])
    assert.is(ended.code, 1)
    assert.is(JSON.parse(ended.stdout).error.code, 'E_NOT_FOUND')
  })
})

refusing('without the network the cache serves', () =>
  withHub({}, async (hub) => {
    process.env.HF_HUB_OFFLINE = '1'
    await throwsFlrcError(() => fetchTiny(), { code: 'E_HUB', message: /HF_HUB_OFFLINE/ })
    assert.is(hub.requests.length, 0)

    process.env.HF_HUB_OFFLINE = '0'
    hub.faults.cutAfter = { bytes: 10, times: 100 }
    await throwsFlrcError(() => fetchTiny(), { code: 'E_HUB', message: /what has been downloaded is kept/ })
    hub.faults = {}
    process.env.HF_HUB_OFFLINE = '1'
    await throwsFlrcError(() => fetchTiny(), { code: 'E_HUB', message: /nor is all of it in the cache/ })

    process.env.HF_HUB_OFFLINE = '0'
    const found = await fetchTiny()
    const count = hub.requests.length
    process.env.HF_HUB_OFFLINE = 'yes'
    assert.equal(await fetchTiny(), found)
    assert.equal(await fetchTiny(`org/tiny@${commit}`), found)
    assert.is(hub.requests.length, count)

    process.env.HF_HUB_OFFLINE = '0'
    await hub.close()
    assert.equal(await fetchTiny(), found, 'a hub that does not answer')
    await throwsFlrcError(() => fetchTiny('org/other'), {
      code: 'E_HUB',
      message: /cannot be reached \(ECONNREFUSED\)/,
    })
  }),
)

refusing('what is on disk wins over the hub', () =>
  withHub({}, async (hub) => {
    await inTemporaryDirectory(async (folder) => {
      mkdirSync(path.join(folder, 'org', 'tiny'), { recursive: true })
      const ended = await runCli(['inspect', 'org/tiny'], { cwd: folder })
      assert.match(ended.stderr, /config\.json: missing/)
      assert.is(hub.requests.length, 0)
    })
  }),
)

for (const one of [reading, fetching, breaking, refusing]) one.run()
