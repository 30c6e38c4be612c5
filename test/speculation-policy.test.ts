import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { fixedCosts, MeasuredCosts, SpeculationPolicy } from '#lib/generate/speculation-policy.js'
import { bestDrafts, type SpeculationCosts, speedUp, tokensPerRound } from '#lib/generate/speed-up.js'
import { seeded } from './support/allocation.js'

const formula = suite('speculation: break-even')

formula('a round gives 1 + a + .. + a^k tokens', () => {
  assert.is(tokensPerRound(0, 5), 1)
  assert.is(tokensPerRound(1, 5), 6)
  for (const a of [0.1, 0.5, 0.9]) {
    for (const k of [1, 2, 7]) {
      const sum = Array.from({ length: k + 1 }, (_, i) => a ** i).reduce((x, y) => x + y)
      assert.ok(Math.abs(tokensPerRound(a, k) - sum) < 1e-12)
    }
  }
})

formula('the speed is what a simulation of rounds gives', () => {
  const random = seeded(3)
  const costs = { draft: 0.4, column: 0.1 }
  for (const [a, k] of [
    [0.7, 3],
    [0.95, 8],
  ] as const) {
    let tokens = 0
    const rounds = 20000
    for (let round = 0; round < rounds; round++) {
      let accepted = 0
      while (accepted < k && random() < a) accepted++
      tokens += accepted + 1
    }
    const simulated = tokens / (rounds * (1 + k * (costs.draft + costs.column)))
    assert.ok(Math.abs(speedUp(a, k, costs) / simulated - 1) < 0.02)
  }
})

formula('one draft breaks even where acceptance is what a draft and its column cost', () => {
  for (const [draft, column] of [
    [0.5, 0],
    [0.6, 0.2],
  ] as const) {
    assert.ok(Math.abs(speedUp(draft + column, 1, { draft, column }) - 1) < 1e-12)
    assert.ok(speedUp(draft + column + 0.01, 1, { draft, column }) > 1)
  }
})

formula('the best number of drafts grows with acceptance and is the best of all', () => {
  const costs = { draft: 0.3, column: 0.1 }
  const best = [0.3, 0.6, 0.8, 0.9, 1].map((a) => bestDrafts(a, 10, costs))
  assert.equal(
    best,
    [...best].sort((a, b) => a - b),
  )
  assert.is(best.at(-1), 10)
  for (const [i, a] of [0.3, 0.6, 0.8, 0.9, 1].entries()) {
    for (let k = 1; k <= 10; k++) assert.ok(speedUp(a, k, costs) <= speedUp(a, best[i] as number, costs))
  }
})

interface Run {
  tokens: number
  most: number
  costs: SpeculationCosts
  /** Acceptance at a token. */
  acceptance: (token: number) => number
  seed?: number
  policy?: SpeculationPolicy
  /** What a time takes longer than it should. */
  slowdown?: (random: () => number) => number
}

/** Lets a policy decide on simulated passes; a plain step takes 10 ms. Speed against plain steps. */
function simulate({ tokens, most, costs, acceptance, seed = 1, slowdown = () => 1, ...run }: Run) {
  const policy = run.policy ?? new SpeculationPolicy(new MeasuredCosts({ draft: 0.7, column: 0.15 }))
  policy.begin()
  const random = seeded(seed)
  let time = 0
  let drafted = 0
  for (let made = 0; made < tokens; ) {
    const { drafts } = policy.next(Math.min(most, tokens - made - 1))
    assert.ok(drafts <= Math.max(0, Math.min(most, tokens - made - 1)))
    if (drafts === 0) {
      policy.step(10 * slowdown(random))
      time += 10
      made++
      continue
    }
    let accepted = 0
    while (accepted < drafts && random() < acceptance(made)) accepted++
    const whole = 10 + 10 * drafts * (costs.draft + costs.column)
    const slow = slowdown(random)
    policy.round(drafts, accepted, whole * slow)
    time += whole
    drafted += drafts
    made += accepted + 1
  }
  return { speed: (10 * tokens) / time, drafted }
}

const decisions = suite('speculation: policy')

decisions('whatever is accepted and whatever passes cost, little is lost', () => {
  for (const most of [1, 4, 15]) {
    for (const costs of [
      { draft: 0.3, column: 0 },
      { draft: 0.7, column: 0.1 },
      { draft: 0.95, column: 1 },
      { draft: 1.1, column: 1 },
    ]) {
      for (const a of [0, 0.2, 0.5, 0.7, 0.9]) {
        for (const [tokens, least] of [
          [20, 0.95],
          [60, 0.955],
          [400, 0.975],
        ] as const) {
          const speeds = Array.from(
            { length: 20 },
            (_, seed) => simulate({ tokens, most, costs, acceptance: () => a, seed }).speed,
          )
          const mean = 20 / speeds.reduce((sum, speed) => sum + 1 / speed, 0)
          assert.ok(mean > least, `K ${most}, ${JSON.stringify(costs)}, a ${a}, ${tokens}: ${mean}`)
        }
      }
    }
  }
})

decisions('where the formula promises a gain, most of it is made', () => {
  for (const [a, costs] of [
    [0.9, { draft: 0.4, column: 0.05 }],
    [0.97, { draft: 0.6, column: 0.1 }],
    [1, { draft: 0.8, column: 0 }],
  ] as const) {
    const promised = speedUp(a, bestDrafts(a, 8, costs), costs)
    const speeds = Array.from(
      { length: 20 },
      (_, seed) => simulate({ tokens: 600, most: 8, costs, acceptance: () => a, seed: seed + 1 }).speed,
    )
    const mean = speeds.reduce((sum, speed) => sum + speed, 0) / speeds.length
    assert.ok(mean > 1 + 0.7 * (promised - 1), `${mean} of ${promised}`)
  }
})

decisions('it stops where nothing is accepted, and begins again where that changes', () => {
  const costs = { draft: 0.4, column: 0.05 }
  const none = simulate({ tokens: 400, most: 8, costs, acceptance: () => 0 })
  assert.ok(none.drafted > 0 && none.drafted < 40, String(none.drafted))
  const later = simulate({ tokens: 1000, most: 8, costs, acceptance: (token) => (token < 200 ? 0 : 0.97) })
  assert.ok(later.speed > 1.15, String(later.speed))
})

decisions('times that are now and then far too long stop nothing', () => {
  const run = { tokens: 400, most: 6, costs: { draft: 0.4, column: 0.05 }, acceptance: () => 0.95 }
  const slowdown = (random: () => number) => (random() < 0.1 ? 20 : 1)
  const speeds = Array.from({ length: 20 }, (_, seed) => simulate({ ...run, seed: seed + 1, slowdown }).speed)
  const mean = speeds.reduce((sum, speed) => sum + speed, 0) / speeds.length
  assert.ok(mean > 1.35 && Math.min(...speeds) > 0.98, speeds.join(' '))
})

decisions('generations of one policy begin with what those before have learnt', () => {
  const costs = { draft: 0.7, column: 0.3 }
  for (const a of [0, 0.5, 0.9]) {
    const policy = new SpeculationPolicy(new MeasuredCosts({ draft: 0.5, column: 0.15 }))
    const all = Array.from({ length: 40 }, (_, i) =>
      simulate({ tokens: 24, most: 8, costs, acceptance: () => a, seed: i + 1, policy }),
    )
    const mean = 40 / all.reduce((sum, { speed }) => sum + 1 / speed, 0)
    assert.ok(mean > 0.98, `a ${a}: ${mean}`)
  }
  const paying = new SpeculationPolicy(new MeasuredCosts({ draft: 0.9, column: 0.15 }))
  const run = { tokens: 48, most: 8, costs: { draft: 0.5, column: 0.1 }, acceptance: () => 0.95 }
  const speeds = Array.from({ length: 12 }, (_, i) => simulate({ ...run, seed: i + 1, policy: paying }).speed)
  const [first = 0, ...later] = speeds
  assert.ok(later.reduce((sum, speed) => sum + speed, 0) / later.length > Math.max(1.15, first))
})

decisions('what others have gained is not lost again', () => {
  const policy = new SpeculationPolicy(new MeasuredCosts({ draft: 0.4, column: 0.1 }))
  const run = { most: 15, costs: { draft: 0.4, column: 0.1 }, policy }
  simulate({ ...run, tokens: 400, acceptance: () => 0.98 })
  const { speed } = simulate({ ...run, tokens: 60, acceptance: () => 0 })
  assert.ok(speed > 0.95, String(speed))
})

decisions('where fixed costs leave nothing to gain, nothing is tried', () => {
  const policy = new SpeculationPolicy(fixedCosts({ draft: 0.6, column: 0.5 }))
  const costs = { draft: 0.3, column: 0 }
  assert.is(simulate({ tokens: 600, most: 8, costs, acceptance: () => 1, policy }).drafted, 0)
})

decisions('with fixed costs it hears of no clock', () => {
  const costs = { draft: 0.6, column: 0.1 }
  const drafted = [1, 7].map((slow) => {
    const policy = new SpeculationPolicy(fixedCosts(costs))
    const slowdown = (random: () => number) => 1 + slow * random()
    return simulate({ tokens: 200, most: 5, costs, acceptance: () => 0.9, policy, slowdown }).drafted
  })
  assert.is(drafted[0], drafted[1])
})

for (const tests of [formula, decisions]) tests.run()
