import path from 'node:path'
import type { LoadedModel } from '../model.js'
import type { Engine } from './engine.js'

/** What a model is called: its id on the hub, or its file's or directory's name. */
export function nameOf({ source }: LoadedModel): string {
  return source.hub?.id ?? path.basename(path.resolve(source.path))
}

/** A model as `GET /v1/models` lists it. */
export function servedModel({ model, schedule }: Engine, name: string): Record<string, unknown> {
  const { config, dtype, device, keep, levels } = model
  return {
    ...{ id: name, object: 'model', created: Math.floor(Date.now() / 1000), owned_by: 'flrc' },
    flrc: {
      ...{ contextLength: config.contextLength, dtype, device, keep },
      levels: levels.map(({ budget }) => budget),
      schedule: schedule ?? null,
    },
  }
}
