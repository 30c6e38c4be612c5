/**
 * What a test program said of itself: `{ passed, failed, skipped }`, or undefined when it gave no count.
 * Reads uvu's closing lines and the plain `N passed, N failed` of the C++ tests.
 */
export function countsOf(output) {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: colours begin with the escape character
  const text = output.replaceAll(/\u001b\[[0-9;]*m/g, '')
  const counts = uvuCounts(text) ?? plainCounts(text)
  return counts && withSpokenSkips(counts, text)
}

function uvuCounts(text) {
  const found = [...text.matchAll(/^ {2}Total: +(\d+)\n {2}Passed: +(\d+)\n {2}Skipped: +(\d+)$/gm)].at(-1)
  if (!found) return undefined
  const [total, passed, skipped] = found.slice(1).map(Number)
  return { passed, failed: total - passed, skipped }
}

function plainCounts(text) {
  const found = [...text.matchAll(/^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$/gm)].at(-1)
  if (!found) return undefined
  const [passed, failed, skipped] = found.slice(1).map((digits) => Number(digits ?? 0))
  return { passed, failed, skipped }
}

/** A test that says `skipped: why` and returns looks like a pass to its framework; here it is none. */
function withSpokenSkips(counts, text) {
  const unknown = Math.max(0, skipReasons(text).length - counts.skipped)
  return {
    ...counts,
    passed: Math.max(0, counts.passed - unknown),
    skipped: counts.skipped + unknown,
  }
}

/** The reasons of the `skipped: why` lines. */
export function skipReasons(text) {
  return [...text.matchAll(/(?:^|[\s•])skipped: (.+)$/gm)].map(([, reason]) => reason.trim())
}

export function sum(all) {
  const total = { passed: 0, failed: 0, skipped: 0 }
  for (const counts of all) for (const key of Object.keys(total)) total[key] += counts[key]
  return total
}

export function closingLine({ passed, failed, skipped }) {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`
}
