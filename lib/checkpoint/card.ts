import type { FlrcHeader } from '../format/types.js'

/** A table of measurements, as the model card shows it. */
export interface MeasuredTable {
  /** What was measured, on what, by which command. */
  caption: string
  columns: readonly string[]
  rows: readonly (readonly (string | number)[])[]
}

/** An SVG that lies beside the card. */
export interface CardFigure {
  file: string
  /** What is drawn, for those who do not see it. */
  alt: string
  svg: string
}

export interface CardContents {
  /** Name of the checkpoint. */
  name: string
  header: FlrcHeader
  method: string
  /** What is left of the MLPs' channels where some were dropped, as `channelsLeft` has it. */
  channels?: string
  /** Whether the tokenizer has a chat template. */
  chats: boolean
  /** Hub id `org/name` of the source, where it came from the hub. */
  baseModel?: string
  /** Hub identifier of the source's licence, where known; the checkpoint is a work derived from it. */
  license?: string
  measured?: MeasuredTable
  figures?: readonly CardFigure[]
}

/** Text in a table cell: no cell ends early, no line breaks. */
function cell(value: string | number): string {
  return String(value).replace(/\s+/g, ' ').replaceAll('\\', '\\\\').replaceAll('|', '\\|')
}

function table(columns: readonly string[], rows: readonly (readonly (string | number)[])[]): string {
  const line = (cells: readonly (string | number)[]) => `| ${cells.map(cell).join(' | ')} |`
  return [line(columns), line(columns.map(() => '---')), ...rows.map(line)].join('\n')
}

function frontMatter({ baseModel, license }: CardContents): string {
  // A JSON string is a YAML string, whatever is in it.
  const lines = ['library_name: flrc', 'pipeline_tag: text-generation', 'tags: [flrc, low-rank, compression]']
  if (baseModel !== undefined) lines.push(`base_model: ${JSON.stringify(baseModel)}`)
  if (license !== undefined) lines.push(`license: ${JSON.stringify(license)}`)
  return `---\n${lines.join('\n')}\n---`
}

function levelTable({ levels }: FlrcHeader): string {
  const rows = levels.map(({ budget, ranks }, level) => {
    const all = Object.values(ranks)
    const dense = all.filter((rank) => rank === 'dense').length
    const factored = all.filter((rank) => rank !== 'dense').sort((a, b) => a - b)
    const span = factored.length > 0 ? `${factored[0]} to ${factored[factored.length - 1]}` : 'none'
    return [level, budget.toFixed(4), factored.length, span, dense]
  })
  return table(['level', 'active budget', 'factored projections', 'their ranks', 'dense projections'], rows)
}

/** The README.md of a checkpoint: a Hugging Face model card. */
export function modelCard(contents: CardContents): string {
  const { name, header, method, channels, chats, baseModel, measured, figures = [] } = contents
  const of = baseModel === undefined ? '' : ` of [${baseModel}](https://huggingface.co/${baseModel})`
  const share = ((header.levels[0]?.budget ?? header.keep) * 100).toFixed(1)
  const dropped =
    channels === undefined ? '' : ` Channels of the MLPs were dropped; a layer has left ${channels}.`
  const falls =
    header.levels.length > 1 ? ' Decoding can read less than it keeps: a lower level uses fewer ranks.' : ''
  const parts = [
    frontMatter(contents),
    `# ${name.replace(/\s+/g, ' ')}`,
    `A low-rank compression${of} by flrc: it keeps ${share}% of the parameters of the layers' projections ` +
      `(embeddings, norms and the output head are not counted), ranks by \`${method}\`, stored ${header.storage} ` +
      `in ${header.dtype}.${dropped}${falls}`,
    levelTable(header),
  ]
  if (measured !== undefined) parts.push(cell(measured.caption), table(measured.columns, measured.rows))
  for (const { alt, file } of figures) parts.push(`![${alt}](${file})`)
  const commands = [
    'npx flrc generate . -p "Once upon a time"',
    ...(chats ? ['npx flrc chat .'] : []),
    'npx flrc inspect .',
  ]
  parts.push(`\`\`\`sh\n${commands.join('\n')}\n\`\`\``)
  parts.push(
    'Scores, truncation curves and options are in `flrc-plan.json`; `npx flrc report . -o report.html` draws them.',
  )
  return `${parts.join('\n\n')}\n`
}
