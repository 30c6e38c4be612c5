import { counted } from '../../counted.js'
import type { ReportContents } from '../contents.js'
import type { Section } from '../html.js'

/** What the checkpoint was made from and with: enough to make it again. */
export function originSection({ plan, storage, inspection }: ReportContents): Section | undefined {
  if (!plan) return undefined
  const { method, budgets, options, channels, recovery, model, calibration, versions } = plan
  const sources =
    calibration?.sources.map(({ kind, name, windows }) => `${name ?? kind}: ${counted(windows, 'window')}`) ??
    []
  const rows = [
    ['method', method],
    ...(budgets ? [['active budgets asked for', budgets.join(', ')]] : []),
    ['storage', storage],
    ...(inspection.dtype ? [['type', inspection.dtype]] : []),
    ...Object.entries(options).map(([name, value]) => [
      name,
      Array.isArray(value) ? value.join(', ') : String(value),
    ]),
    ...(channels ? [['channels of the MLPs dropped', `${(channels.dropped * 100).toFixed(1)}%`]] : []),
    ...(recovery?.minutes ? [['minutes of recovery', recovery.minutes.toFixed(1)]] : []),
    ...(model ? [['SHA-256 of the source weights', model.sha256]] : []),
    ...(calibration
      ? [
          ['calibration tokens', String(calibration.tokens)],
          ...(sources.length > 0 ? [['calibration sources', sources.join('; ')]] : []),
          ['SHA-256 of the calibration text', calibration.sha256],
        ]
      : []),
    ...Object.entries(versions).map(([name, version]) => [`version of ${name}`, version]),
  ]
  return {
    id: 'origin',
    title: 'How to make it again',
    lead: recovery
      ? 'Equal inputs, options and versions give the same ranks. The recovery trained for a time, so its steps, and with them the weights, differ from run to run.'
      : 'Equal inputs, options and versions give the same checkpoint, byte for byte, at any number of threads; only flrc-run.json, which has the seconds, differs.',
    figures: [
      {
        caption: 'From flrc-plan.json, which also holds every score and curve in full.',
        table: { caption: 'Inputs, options and versions', columns: ['what', 'value'], rows },
      },
    ],
  }
}
