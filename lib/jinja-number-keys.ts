import type { Environment, Interpreter } from '@huggingface/jinja'

type Evaluate = Interpreter['evaluate']
type Statement = Parameters<Evaluate>[0]
type Value = ReturnType<Evaluate>

/** What the nodes that matter here have of the library's syntax tree. */
interface Node {
  type: string
  value: unknown
  object: Node
  operand: Node
  property: Node
  computed: boolean
  filter: Node
}
interface Numbered {
  value: Map<{ value: number }, Node>
}

const literal = (type: string, value: unknown) => ({ type, value })

/**
 * Dictionaries whose keys are numbers, as Seed-OSS's template has one: the library takes strings alone. They are kept by their
 * keys' text, and looked up and sorted by their literals. `evaluate` is the library's own; what comes back is undefined where
 * it shall do the work.
 */
export function numberKeys(evaluate: Evaluate) {
  const literals = new WeakMap<Value, Numbered>()
  let any = false
  return (interpreter: Interpreter, statement: Statement, environment: Environment): Value | undefined => {
    const node = statement as unknown as Node | undefined
    // What a slice leaves out.
    if (node === undefined) return undefined
    const run = (made: object) => evaluate.call(interpreter, made as Statement, environment)
    if (node.type === 'ObjectLiteral') {
      const { value: entries } = node as unknown as { value: Map<Node, Node> }
      const numbers = [...entries.keys()].every(({ type }) => type === 'IntegerLiteral')
      if (entries.size === 0 || !numbers) return undefined
      const named = [...entries].map(
        ([key, value]) => [literal('StringLiteral', String(key.value)), value] as const,
      )
      const made = run({ ...node, value: new Map(named) })
      literals.set(made, node as unknown as Numbered)
      any = true
      return made
    }
    const looksUp = node.type === 'MemberExpression' && node.computed
    const sorts = node.type === 'FilterExpression' && node.filter.value === 'dictsort'
    if (!any || !(looksUp || sorts)) return undefined
    const holder = looksUp ? node.object : node.operand
    const held = holder.type === 'Identifier' ? literals.get(run(holder)) : undefined
    if (held === undefined) return undefined
    if (looksUp) {
      const key = interpreter.evaluate(node.property as unknown as Statement, environment)
      return run({ ...node, property: literal('StringLiteral', String(key.value)) })
    }
    const pairs = [...held.value].sort(([a], [b]) => a.value - b.value)
    return run(
      literal(
        'ArrayLiteral',
        pairs.map((pair) => literal('ArrayLiteral', pair)),
      ),
    )
  }
}
