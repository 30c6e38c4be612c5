import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { pathToFileURL } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type ChatMessage, renderChat, templateLimit } from '#lib/chat-template.js'
import { openModelSource } from '#lib/model-source.js'
import { throwsFlrcError } from './support/flrc-error.js'
import { fixture, repository, smollm2Gguf } from './support/paths.js'

interface Chat {
  messages: ChatMessage[]
  text: string
}
const chatsOf = (name: string): Chat[] => JSON.parse(readFileSync(fixture(name), 'utf8')).chats
const hello: ChatMessage[] = [{ role: 'user', content: 'hello' }]

async function checkChats(path: string, name: string): Promise<void> {
  const { chatTemplate } = (await openModelSource(path)).tokenizer()
  const chats = chatsOf(name)
  assert.ok(chatTemplate !== undefined && chats.length >= 3)
  for (const { messages, text } of chats) assert.is(await renderChat(chatTemplate, messages), text)
}

test('models/tiny: chats as transformers renders them', () =>
  checkChats(repository('models', 'tiny'), 'tiny-tokens.json'))

if (existsSync(smollm2Gguf)) {
  test('SmolLM2: chats as transformers renders them', () => checkChats(smollm2Gguf, 'smollm2-tokens.json'))
} else {
  console.log('skipped: SmolLM2 chat template, missing ../shared/models/smollm2-135m-instruct')
}

test('gives the template what transformers gives it', async () => {
  const template =
    '{{ bos_token }}|{{ eos_token }}|{{ add_generation_prompt }}|{{ tools is none }}|{{ documents is none }}|{{ name }}'
  const options = { bosToken: '<s>', eosToken: '</s>', variables: { name: 'x' } }
  assert.is(await renderChat(template, hello, options), '<s>|</s>|True|True|True|x')
  const without = await renderChat(template, hello, { addGenerationPrompt: false, tools: [{ a: 1 }] })
  assert.is(without, '||False|False|True|')
})

test('strips blocks as transformers does', async () => {
  const template =
    '{% for m in messages %}\n  {%- if true %}\n    [{{ m.content }}]\n  {% endif %}\n{% endfor %}'
  assert.is(await renderChat(template, hello), '    [hello]\n')
})

test('strings go on in the next line behind a backslash', async () => {
  const template = '{%- set text = "one \\\ntwo\\n" %}{{ text + "th\\\nree" }} a\\\nb'
  assert.is(await renderChat(template, hello), 'one two\nthree a\\\nb')
})

test('dictionaries may have numbers for keys', async () => {
  const template = `{%- set budgets = { 16384: 1024, 0: 0, 512: 128 } -%}
    {%- set ns = namespace(interval = None) -%}
    {%- for k, v in budgets | dictsort -%}
      {%- if ns.interval is none and 400 <= k -%}{%- set ns.interval = v -%}{%- endif -%}
    {%- endfor -%}
    {{ ns.interval }} {{ budgets[16384] }} {{ { 'a': 1 }['a'] }} {{ 'abc'[1:] }}{% for k, v in { 'b': 1, 'a': 2 } | dictsort %} {{ k }}{% endfor %}`
  assert.is(await renderChat(template, hello), '128 1024 1 bc a b')
})

// The texts are transformers'.
const left: [template: string, text: string][] = [
  [
    '{% for m in messages %}<{{ m.role }}>{% if m.role == "b" %}{{ m.content }}{% continue %}{% endif %}[{{ m.content }}]{% endfor %}',
    '<a>[A]<b>B<c>[C]',
  ],
  [
    '{% for m in messages %}{{ m.content }}{% if loop.index == 2 %}{% break %}{% endif %},{% endfor %}!',
    'A,B!',
  ],
  [
    '{% for m in messages %}{% for k in [1, 2, 3] %}{{ k }}{% if k == 2 %}{% break %}{% endif %}{% endfor %}|{% endfor %}',
    '12|12|12|',
  ],
  ['{% for m in messages %}{{ m.content }}{% continue %}{% else %}E{% endfor %}', 'ABCE'],
  [
    '{% for m in messages %}{{ m.content }}{% for k in [] %}{% else %}e{% break %}{% endfor %}x{% endfor %}!',
    'Ae!',
  ],
  [
    '{% for m in messages %}{{ m.content }}{% set z %}s{% if loop.index == 2 %}{% break %}{% endif %}{% endset %}{{ z }}.{% endfor %}!',
    'As.B!',
  ],
  [
    '{% for m in messages %}{{ m.content }}{% filter upper %}s{% if loop.index == 2 %}{% continue %}{% endif %}t{% endfilter %}.{% endfor %}',
    'AST.BCST.',
  ],
  [
    '{% macro f(n) %}{% for i in range(n) %}{{ i }}{% if i == 1 %}{{ f(1) }}{% break %}{% endif %},{% endfor %}{% endmacro %}{{ f(3) }}',
    '0,10,',
  ],
]

test('keeps what a pass of a loop put out before it was left', async () => {
  const messages = ['a', 'b', 'c'].map((role) => ({ role, content: role.toUpperCase() }))
  for (const [template, text] of left) assert.is(await renderChat(template, messages), text, template)
})

test("puts true, false and none out in Python's words", async () => {
  const template =
    '{{ true }} {{ 1 > 2 }} {{ none }} {{ nope }}{{ messages[0].get("x") }}{% set a = none %} {{ "a" ~ true ~ none ~ nope ~ 1.0 ~ 2 }}{{ "x" if false }} {{ true | string }} {{ true | tojson }}'
  assert.is(await renderChat(template, hello), 'True False None None aTrueNone1.02 True true')
})

test('knows the date', async () => {
  assert.match(await renderChat('{{ strftime_now("%Y") }}', hello), /^20\d\d$/)
})

test('bounded range is range', async () => {
  const template = '{{ range(3) }}{{ range(1, 4) }}{{ range(5, 0, -2) }}{{ range(0) }}'
  assert.is(await renderChat(template, hello), '[0, 1, 2][1, 2, 3][5, 3, 1][]')
})

test('long conversations render', async () => {
  const messages = Array.from({ length: 2000 }, (_, i) => ({
    role: i % 2 ? 'assistant' : 'user',
    content: 'x'.repeat(500),
  }))
  const text = await renderChat(
    '{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}',
    messages,
  )
  assert.is(text.split('\n').length, 2001)
})

/** Sets ns.s to 2^n characters. */
const doubled = (n: number) =>
  `{% set ns = namespace(s="x") %}{% for a in range(${n}) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}`
const keep = (what: string) =>
  `${doubled(21)}{% set k = namespace(l=[]) %}{% for i in range(40000) %}{% set k.l = k.l + [${what}] %}{% endfor %}`

const hostile: [what: string, template: string, message: RegExp][] = [
  [
    'loops for ever',
    '{% for a in range(40000) %}{% for b in range(40000) %}{% endfor %}{% endfor %}',
    /did not end/,
  ],
  [
    'loops for ever while it writes',
    '{% for a in range(40000) %}{% for b in range(40000) %}xxxxxxxxxxxxxxxx{% endfor %}{% endfor %}',
    /did not end|characters/,
  ],
  ['a list of a billion', '{% for a in range(1000000000) %}x{% endfor %}', /items/],
  ['doubling a string', `${doubled(60)}{{ ns.s }}`, /characters/],
  [
    'doubling a list',
    '{% set n = namespace(l=[1]) %}{% for a in range(60) %}{% set n.l = n.l + n.l %}{% endfor %}',
    /items/,
  ],
  ['replacing every character', `${doubled(20)}{{ ns.s.replace("x", ns.s) }}`, /characters/],
  ['joining', `${doubled(21)}{{ range(10000) | join(ns.s) }}`, /characters/],
  ['splitting', `${doubled(20)}{{ ns.s.replace("x", "x,").split(",") | length }}`, /items/],
  ['a string taken apart', `${doubled(21)}{{ ns.s[0:5] }}`, /items/],
  ['indenting', '{{ "a\nb" | indent(2000000000) }}', /characters/],
  ['indenting JSON', '{{ [1, [2]] | tojson(indent=500000000) }}', /characters/],
  [
    'nested doubling',
    '{% set k = namespace(l=[1]) %}{% for i in range(40) %}{% set k.l = [k.l, k.l] %}{% endfor %}{{ k.l | tojson }}',
    /characters|did not end/,
  ],
  ['keeping much', keep('(ns.s ~ i) | upper'), /MB|did not end/],
  ['keeping many lists', keep('range(40000)'), /MB|did not end/],
  ['brackets without end', `{{ ${'('.repeat(200_000)}1${')'.repeat(200_000)} }}`, /stack/],
  ['calls without end', '{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}', /failed/],
]

for (const [what, template, message] of hostile) {
  test(`stops a template that costs too much: ${what}`, () =>
    throwsFlrcError(() => renderChat(template, hello, { file: 'm.gguf', timeLimitMs: 2500 }), {
      code: 'E_CHAT_TEMPLATE',
      file: 'm.gguf',
      message,
      within: 6000,
    }))
}

test('the event loop runs on meanwhile', async () => {
  let ticks = 0
  const timer = setInterval(() => ticks++, 10)
  await throwsFlrcError(
    () =>
      renderChat('{% for a in range(40000) %}{% for b in range(40000) %}{% endfor %}{% endfor %}', hello, {
        timeLimitMs: 600,
      }),
    { code: 'E_CHAT_TEMPLATE' },
  )
  clearInterval(timer)
  assert.ok(ticks > 5, `${ticks} ticks`)
})

const bad: [what: string, template: string, message: RegExp][] = [
  ['wrong syntax', '{% for %}', /failed/],
  ['refusing the messages', '{{ raise_exception("no system role") }}', /no system role/],
  ['an unknown filter', '{{ "a" | nonsense }}', /nonsense/],
  ['too long a text', 'x'.repeat(templateLimit + 1), /allowed/],
]
for (const [what, template, message] of bad) {
  test(`says what is wrong: ${what}`, () =>
    throwsFlrcError(() => renderChat(template, hello), { code: 'E_CHAT_TEMPLATE', message }))
}

test('messages that are no data are refused', () =>
  throwsFlrcError(() => renderChat('x', [{ role: 'user', content: () => 1 }]), { code: 'E_USAGE' }))

test('can be aborted, before and meanwhile', async () => {
  await throwsFlrcError(() => renderChat('x', hello, { signal: AbortSignal.abort() }), { code: 'E_ABORTED' })
  const endless = '{% for a in range(40000) %}{% for b in range(40000) %}{% endfor %}{% endfor %}'
  await throwsFlrcError(() => renderChat(endless, hello, { signal: AbortSignal.timeout(300) }), {
    code: 'E_ABORTED',
    within: 2000,
  })
})

test('a rendering that was stopped does not keep the process alive', () => {
  const module = JSON.stringify(pathToFileURL(repository('dist', 'chat-template.js')).href)
  const script = `
    import { renderChat } from ${module}
    const endless = '{% for a in range(40000) %}{% for b in range(40000) %}{% endfor %}{% endfor %}'
    await renderChat(endless, [], { timeLimitMs: 300 }).catch((error) => console.log(error.code))`
  const begin = performance.now()
  const output = execFileSync(process.execPath, ['--input-type=module', '-e', script], { timeout: 20_000 })
  assert.is(output.toString().trim(), 'E_CHAT_TEMPLATE')
  assert.ok(performance.now() - begin < 10_000)
})

test.run()
