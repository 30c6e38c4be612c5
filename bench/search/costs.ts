import { projectionKinds } from '#lib/format/projections.js'

/** Seconds by the clock, and of all cores. */
export interface Cost {
  wall: number
  cpu: number
}

export async function costOf<T>(work: () => Promise<T>): Promise<{ value: T; cost: Cost }> {
  const before = process.cpuUsage()
  const begin = performance.now()
  const value = await work()
  const wall = (performance.now() - begin) / 1000
  const { user, system } = process.cpuUsage(before)
  return { value, cost: { wall, cpu: (user + system) / 1e6 } }
}

export const plus = (a: Cost, b: Cost): Cost => ({ wall: a.wall + b.wall, cpu: a.cpu + b.cpu })

export const scaled = ({ wall, cpu }: Cost, factor: number): Cost => ({
  wall: wall * factor,
  cpu: cpu * factor,
})

/**
 * Indices of `count` projections, rising: as many of each of the seven kinds as can be, evenly spread over the
 * layers, so that their mean cost stands for that of all. All of them where the model has no more.
 */
export function spreadProjections(layers: number, count: number): number[] {
  const kinds = projectionKinds.length
  const wanted = Math.min(count, layers * kinds)
  const chosen: number[] = []
  for (let kind = 0; kind < kinds; kind++) {
    const ofKind = Math.floor((wanted + kinds - 1 - kind) / kinds)
    for (let i = 0; i < ofKind; i++) {
      const layer = Math.floor(((i + 0.5) * layers) / ofKind)
      chosen.push(layer * kinds + kind)
    }
  }
  return chosen.sort((a, b) => a - b)
}
