import { panelsPlot } from '../../plots.js'
import {
  calibrated,
  levelOf,
  progressive,
  type Schedule,
  type ScheduleShape,
  scheduleOn,
} from '../../schedule.js'
import { meanOf } from '../../statistics/mean.js'
import type { ReportContents } from '../contents.js'
import type { Section } from '../html.js'

const shapes: readonly ScheduleShape[] = ['linear', 'cosine', 'exponential', 'step']
/** Tokens of the generation that is drawn, and those over which the budget falls. */
const steps = 96
const fall = 64

/** The active budget over the steps of a generation, for each family of schedules and for the stored one. */
export async function budgetsSection({ inspection }: ReportContents): Promise<Section | undefined> {
  const { levels, schedule: stored, keep = 1, path } = inspection
  const [from, to] = [levels[0]?.budget ?? 1, levels.at(-1)?.budget ?? 1]
  if (levels.length < 2) return undefined
  const drawn: { name: string; text: string; schedule: Schedule }[] = shapes.map((shape) => ({
    name: shape,
    text: `${shape}:${trimmed(from)}:${trimmed(to)}:${fall}`,
    schedule: progressive({ from, to, over: fall, shape }),
  }))
  if (stored !== undefined && !followsText(stored)) {
    const schedule = scheduleOn(calibrated(), { keep, source: { path, flrc: { schedule: stored } } })
    drawn.push({ name: 'calibrated', text: stored, schedule })
  }
  const runs = drawn.map(({ name, text, schedule }) => {
    const asked = Array.from({ length: steps }, (_, step) =>
      schedule(step, { step, promptTokens: 0, entropy: 0, level: 0, levels }),
    )
    const used = asked.map((budget, step) => (step === 0 ? 0 : levelOf(budget, levels)))
    return { name, text, asked, used, budgets: used.map((level) => levels[level]?.budget ?? 1) }
  })
  const room = (from - to) * 0.08
  const title = 'Active budget over the steps of a generation'
  const lowest = runs.reduce((best, one) => (meanOf(one.budgets) < meanOf(best.budgets) ? one : best))
  const seen = `Over these ${steps} tokens ${lowest.name} reads least: ${meanOf(lowest.budgets).toFixed(3)} on average.`
  return {
    id: 'budgets',
    title: 'How the rank falls while decoding',
    lead:
      'A schedule gives each step an active budget: block parameters read for that token, as a share of the dense ' +
      `model's. The step takes the largest of the ${levels.length} levels that is not above it.${storedRemark(stored)}`,
    figures: [
      {
        svg: await panelsPlot({
          ...{ id: 'budgets-figure', title, description: seen },
          x: { label: 'step', domain: [0, steps - 1], ticks: [0, fall / 2, fall] },
          y: {
            label: 'active budget',
            type: 'linear',
            domain: [to - room, from + room],
            ticks: levels.map(({ budget }) => Number(budget.toFixed(3))),
          },
          panels: runs.map(({ name, asked, budgets }) => ({
            name,
            lines: [
              { order: 0.4, dashed: true, points: asked.map((y, x) => ({ x, y })) },
              { order: 1, stepped: true, points: budgets.map((y, x) => ({ x, y })) },
            ],
          })),
        }),
        caption:
          'Active budget of each step for schedules that fall from level 0 to the last level over ' +
          `${fall} steps${runs.length > shapes.length ? ', and for the calibrated one' : ''}: asked for (dashed) and read (solid); the levels' budgets are marked. ${seen}`,
        table: {
          caption: `Mean active budget over ${steps} tokens`,
          columns: [
            'schedule',
            'mean asked for',
            'mean read',
            ...levels.map((_, level) => `steps at level ${level}`),
          ],
          rows: runs.map(({ text, asked, used, budgets }) => [
            text,
            meanOf(asked).toFixed(3),
            meanOf(budgets).toFixed(3),
            ...levels.map((_, level) => used.filter((at) => at === level).length),
          ]),
        },
      },
    ],
  }
}

/** Whether the level follows what is written, so that nothing can be drawn before. */
function followsText(schedule: string): boolean {
  return schedule.startsWith('adaptive:')
}

function storedRemark(stored: string | undefined): string {
  if (stored === undefined) return ''
  const why = followsText(stored) ? ', whose level follows the text and is not drawn' : ''
  return ` The calibrated schedule of this checkpoint is ${stored}${why}.`
}

/** Without a zero before the point, as budgets are written on the command line; never rounded up. */
function trimmed(budget: number): string {
  return String(Math.floor(budget * 1000) / 1000).replace(/^0\./, '.')
}
