import type { Command } from 'commander'
import { channelsLeft } from '../format/channels.js'
import { type Inspection, inspect } from '../inspect.js'
import { addCommonOptions, type CommonOptions, modelForms } from './options.js'
import { formatBytes, formatTable, print, printJson } from './output.js'
import { step } from './steps.js'

export function registerInspect(program: Command, signal: AbortSignal): void {
  const command = program
    .command('inspect')
    .description("shapes, ranks, scores, levels and bytes of a model, from its files' headers")
    .argument('<model>', modelForms)
  addCommonOptions(command).action(async (path: string, flags: CommonOptions) => {
    const inspection = await step('read', (onProgress) => inspect(path, { signal, onProgress }))
    if (flags.json) await printJson(inspection)
    else await print(`${describe(inspection)}\n`)
  })
}

function describe(inspection: Inspection): string {
  const {
    config,
    levels,
    projections,
    types,
    bytes,
    denseParameters,
    keep,
    dtype,
    storage,
    scoreKind,
    schedule,
  } = inspection
  const head = [
    `${inspection.path}: ${inspection.format}, ${config.architecture}, ${formatBytes(bytes)}`,
    `${config.layers} layers, hidden ${config.hiddenSize}, ${config.heads} heads (${config.kvHeads} key-value) of ${config.headDim},\n` +
      `feed-forward ${config.intermediateSize}, vocabulary ${config.vocabSize}, context ${config.contextLength}`,
    `tensor bytes: ${Object.entries(types)
      .map(([type, size]) => `${type} ${formatBytes(size)}`)
      .join(', ')}`,
    `dense block parameters: ${denseParameters}`,
  ]
  const channels = channelsLeft(config)
  if (channels !== undefined) head.push(`channels of the MLPs: ${channels}`)
  if (keep !== undefined) head.push(`keep ${keep.toFixed(4)}, ${storage} factors in ${dtype}`)
  if (schedule !== undefined) head.push(`calibrated schedule: ${schedule}`)
  const levelTable = formatTable(
    ['level', 'active budget'],
    levels.map(({ budget }, level) => [String(level), budget.toFixed(4)]),
  )
  const scored = projections.some(({ score }) => score !== undefined)
  const projectionTable = formatTable(
    ['projection', 'shape', 'rank', ...(scored ? [`score (${scoreKind})`] : [])],
    projections.map(({ name, shape, ranks, score }) => [
      name,
      shape.join(' x '),
      [...new Set(ranks)].join(' > '),
      ...(scored ? [score?.toExponential(3) ?? ''] : []),
    ]),
  )
  return [head.join('\n'), levelTable, projectionTable].join('\n\n')
}
