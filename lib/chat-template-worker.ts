/**
 * Renders one chat template in a thread of its own, under limits; see chat-template.ts. Not part of the API.
 */
import { getHeapStatistics } from 'node:v8'
import { parentPort, workerData } from 'node:worker_threads'
import { Environment, Interpreter, Template } from '@huggingface/jinja'
import { numberKeys } from './jinja-number-keys.js'
import { pythonOutput } from './jinja-output.js'

/** What the thread is given, and what it answers. */
export interface RenderRequest {
  template: string
  variables: Record<string, unknown>
  /** Each is rendered on its own, as the variable `messages`. */
  chats: readonly (readonly unknown[])[]
  /** Of all texts together. */
  maxCharacters: number
  /** Of a list. */
  maxItems: number
  /** Of a text that is taken apart into characters. */
  maxSplitCharacters: number
  maxHeapBytes: number
}
export type RenderReply = { texts: string[] } | { error: string }

/** That the thread has started, and then its answer. */
export type WorkerMessage = 'ready' | RenderReply

type Program = Template['parsed']
type Statement = Parameters<Interpreter['evaluate']>[0]

function render({
  template,
  variables,
  chats,
  maxCharacters,
  maxItems,
  maxSplitCharacters,
  maxHeapBytes,
}: RenderRequest): string[] {
  const tooMany = new Error(`it makes a list of more than ${maxItems} items`)
  // Python's strings go on behind a backslash at the end of a line; the library takes it for an unknown escape.
  const whole = template.replaceAll(/\{[{%].*?[%}]\}/gs, (tag) => tag.split('\\\n').join(''))
  const check = (characters: number) => {
    if (characters > maxCharacters) throw new Error(`it makes more than ${maxCharacters} characters`)
  }

  // A thread that asks for one block beyond its heap limit ends the whole process, so no single step may
  // make something huge. These are the steps of the interpreter that can make much from little; they are
  // bounded in this thread's own globals, where nothing else runs.
  const repeat = String.prototype.repeat
  String.prototype.repeat = function (count) {
    check(this.length * count)
    return repeat.call(this, count)
  }
  const replaceAll = String.prototype.replaceAll
  String.prototype.replaceAll = function (this: string, pattern: string | RegExp, replacement: unknown) {
    if (typeof replacement !== 'function') throw new Error('replacement is no function')
    let length = this.length
    return replaceAll.call(this, pattern, (...match) => {
      const text = String(replacement(...match))
      length += text.length
      check(length)
      return text
    })
  }
  const join = Array.prototype.join
  Array.prototype.join = function (separator) {
    const texts = Array.from(this, (item) => (item === undefined || item === null ? '' : String(item)))
    let length = String(separator ?? ',').length * Math.max(0, texts.length - 1)
    for (const text of texts) {
      length += text.length
      check(length)
    }
    return join.call(texts, separator)
  }
  const split = String.prototype.split
  String.prototype.split = function (this: string, separator: unknown) {
    const parts: string[] = Reflect.apply(split, this, [separator, maxItems + 1])
    if (parts.length > maxItems) throw tooMany
    return parts
  }
  const from = Array.from
  Array.from = (source: unknown, ...rest: unknown[]) => {
    if (typeof source === 'string' && source.length > maxSplitCharacters) throw tooMany
    return Reflect.apply(from, Array, [source, ...rest])
  }

  const boundedRange = (start: number, stop?: number, step = 1): number[] => {
    const [from, to] = stop === undefined ? [0, start] : [start, stop]
    const count = Math.max(0, Math.ceil((to - from) / step))
    if (!(count <= maxItems)) throw tooMany
    return Array.from({ length: count }, (_, i) => from + i * step)
  }
  const range = new Environment().set('range', boundedRange)
  const run = Interpreter.prototype.run
  Interpreter.prototype.run = function (program: Program) {
    this.global.setVariable('range', range)
    return run.call(this, program)
  }

  // Every value passes here, so what one step may build on is bounded, and so is what all of them keep.
  let made = 0
  const evaluate = Interpreter.prototype.evaluate
  const byNumber = numberKeys(evaluate)
  const asText = pythonOutput(Interpreter)
  Interpreter.prototype.evaluate = function (statement: Statement, environment: Environment) {
    const result =
      byNumber(this, statement, environment) ??
      asText(this, statement, environment) ??
      evaluate.call(this, statement, environment)
    const value: unknown = result.value
    if (typeof value === 'string') {
      check(value.length)
      made += value.length
    } else if (Array.isArray(value)) {
      if (value.length > maxItems) throw tooMany
      made += value.length
    }
    if (++made > maxItems) {
      made = 0
      const used = getHeapStatistics().used_heap_size
      if (used > maxHeapBytes) throw new Error(`it needs more than ${Math.round(maxHeapBytes / 1e6)} MB`)
    }
    return result
  }
  const parsed = new Template(whole)
  let rendered = 0
  return chats.map((messages) => {
    const text = parsed.render({ ...variables, messages })
    rendered += text.length
    check(rendered)
    return text
  })
}

parentPort?.postMessage('ready' satisfies WorkerMessage)
let reply: RenderReply
try {
  reply = { texts: render(workerData as RenderRequest) }
} catch (error) {
  reply = { error: error instanceof Error ? error.message : String(error) }
}
parentPort?.postMessage(reply)
