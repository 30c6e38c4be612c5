import type { Environment, Interpreter } from '@huggingface/jinja'

type Statement = Parameters<Interpreter['evaluate']>[0]
type Value = ReturnType<Interpreter['evaluate']>

/** What the nodes that matter here have of the library's syntax tree. */
interface Node {
  type: string
  operator: { value: string }
  left: Node
  right: Node
  operand: Node
  filter: { value: unknown }
}

/** A loop, whose blocks are known by these lists, and what the passes that `continue` or `break` left have put out. */
interface Loop {
  body: readonly Node[]
  defaultBlock: readonly Node[]
}
interface Running {
  loop: Loop
  left: string
}

/** Methods that the library keeps to itself. */
interface Blocks {
  evaluate(node: Node, environment: Environment): Value
  evaluateBlock(nodes: readonly Node[], environment: Environment): Value
  evaluateFor(loop: Loop, environment: Environment): { value: string }
}

/** Statements that put nothing out, though they have a value. */
const silent: readonly string[] = ['Comment', 'Macro', 'Set']
/** Statements whose text belongs to the block that they are in; that of others is lost where a loop leaves them, as in Jinja. */
const transparent: readonly string[] = ['For', 'If']

function printed(value: Value): string {
  switch (value.type) {
    case 'UndefinedValue':
      return ''
    case 'NullValue':
      return 'None'
    case 'BooleanValue':
      return value.value ? 'True' : 'False'
    default:
      return value.toString()
  }
}

/**
 * Lets templates put out what Jinja does: also what a pass of a loop has made when `break` or `continue` leaves it, which
 * the library forgets, and Python's words for true, false and none. `evaluate` is the library's own; what comes back gives
 * the values of expressions that make text of others, and undefined where the library shall do the work.
 */
export function pythonOutput(interpreter: typeof Interpreter) {
  const methods = interpreter.prototype as unknown as Blocks
  const { evaluate, evaluateFor } = methods
  const running: Running[] = []
  /** What a block had put out when this was thrown in it. */
  const unfinished = new WeakMap<object, string>()
  const textValue = (self: Blocks, value: string, environment: Environment) =>
    evaluate.call(self, { type: 'StringLiteral', value } as unknown as Node, environment)

  methods.evaluateFor = function (loop, environment) {
    const own = { loop, left: '' }
    running.push(own)
    try {
      const result = evaluateFor.call(this, loop, environment)
      result.value += own.left
      return result
    } finally {
      running.pop()
    }
  }

  methods.evaluateBlock = function (nodes, environment) {
    const innermost = running.at(-1)
    const isBody = nodes === innermost?.loop.body
    const continues = isBody || nodes === innermost?.loop.defaultBlock
    let text = ''
    if (innermost && continues) {
      text = innermost.left
      innermost.left = ''
    }
    for (const node of nodes) {
      try {
        const value = this.evaluate(node, environment)
        if (!silent.includes(node.type)) text += printed(value)
      } catch (error) {
        if (error instanceof Error) {
          if (transparent.includes(node.type)) text += unfinished.get(error) ?? ''
          if (innermost && isBody) innermost.left = text
          else unfinished.set(error, text)
        }
        throw error
      }
    }
    return textValue(this, text, environment)
  }

  return (self: Interpreter, statement: Statement, environment: Environment): Value | undefined => {
    const node = statement as unknown as Node | undefined
    const textOf = (part: Node) => printed(self.evaluate(part as unknown as Statement, environment))
    const make = (text: string) => textValue(self as unknown as Blocks, text, environment)
    if (node?.type === 'BinaryExpression' && node.operator.value === '~')
      return make(textOf(node.left) + textOf(node.right))
    if (node?.type === 'FilterExpression' && node.filter.value === 'string') return make(textOf(node.operand))
    return undefined
  }
}
