import { packageVersion } from './binding.js'
import { channelsLeft } from './format/channels.js'
import { type ReportContents, readContents, tensorBytes } from './report/contents.js'
import { type Fact, pageHtml } from './report/page.js'
import { type QualityRows, readQuality } from './report/quality.js'
import { budgetsSection } from './report/sections/budgets.js'
import { curvesSection } from './report/sections/curves.js'
import { originSection } from './report/sections/origin.js'
import { ranksSection } from './report/sections/ranks.js'
import { recoverySection } from './report/sections/recovery.js'
import { rougeSection } from './report/sections/rouge.js'
import { scoresSection } from './report/sections/scores.js'
import { sizeSection } from './report/sections/size.js'
import { timeSection } from './report/sections/time.js'

export type { MeasuredModel } from './report/measured.js'
export { type QualityRows, readQuality } from './report/quality.js'

/** In the order of the page; those without data are undefined. */
const sections = [
  sizeSection,
  scoresSection,
  ranksSection,
  curvesSection,
  budgetsSection,
  rougeSection,
  recoverySection,
  timeSection,
  originSection,
]

/**
 * The report of an FLRC checkpoint as one HTML document: figures as SVG with their tables, nothing loaded, no
 * scripts. Reads headers, plan and record of the run, no weights.
 *
 * @param quality rows measured elsewhere, or the names of files of them (see `readQuality`)
 * @throws those of opening a model, E_MODEL_FORMAT for a broken plan, E_USAGE for a model that is no checkpoint
 */
export async function reportHtml(
  directory: string,
  quality?: QualityRows | readonly string[],
): Promise<string> {
  const rows = isFiles(quality) ? await readQuality(quality) : quality
  const contents = await readContents(directory, rows)
  const made = []
  for (const section of sections) made.push(await section(contents))
  return pageHtml({
    title: contents.name,
    subtitle: subtitleOf(contents),
    facts: factsOf(contents),
    sections: made.filter((section) => section !== undefined),
    footer: `Written by flrc ${packageVersion}. Budgets are shares of the dense block parameters: the weights of q, k, v, o, gate, up and down of all layers, without embeddings, norms and the output head.`,
  })
}

function isFiles(quality: QualityRows | readonly string[] | undefined): quality is readonly string[] {
  return Array.isArray(quality)
}

function subtitleOf({ inspection, storage, plan }: ReportContents): string {
  const { config, dtype } = inspection
  const channels = channelsLeft(config)
  const dropped = channels === undefined ? '' : `; channels left in each MLP: ${channels}`
  const how = plan ? `, ranks by ${plan.method}` : ''
  return `Low-rank compression of a ${config.architecture} model of ${config.layers} layers: ${storage} factors in ${dtype}${how}${dropped}`
}

function factsOf({ inspection, projections, plan }: ReportContents): Fact[] {
  const { levels } = inspection
  const source = plan?.model?.bytes
  const heldOut = plan?.heldOut
  const own = heldOut?.levels[0]
  const dense = projections.filter(({ ranks }) => ranks[0] === 'dense').length
  const lowest = levels.at(-1)?.budget ?? 1
  return [
    {
      name: 'Kept',
      value: (levels[0]?.budget ?? 1).toFixed(3),
      remark: 'of block parameters',
    },
    {
      name: 'Stored',
      value: megabytes(tensorBytes(inspection)),
      ...(source === undefined ? {} : { remark: `source ${megabytes(source)}` }),
    },
    ...(heldOut && own
      ? [
          {
            name: 'Perplexity',
            value: own.perplexity.toFixed(2),
            remark: `dense ${heldOut.dense.perplexity.toFixed(2)}`,
          },
        ]
      : []),
    {
      name: levels.length > 1 ? 'Levels' : 'Level',
      value: String(levels.length),
      ...(levels.length > 1 ? { remark: `down to budget ${lowest.toFixed(3)}` } : {}),
    },
    { name: 'Left dense', value: `${dense} of ${projections.length}`, remark: 'projections' },
  ]
}

function megabytes(bytes: number): string {
  return bytes >= 1e9 ? `${(bytes / 1e9).toPrecision(3)} GB` : `${(bytes / 1e6).toPrecision(3)} MB`
}
