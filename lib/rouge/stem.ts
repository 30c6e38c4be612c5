/**
 * Porter's stemmer as NLTK runs it by default (`PorterStemmer` in its mode NLTK_EXTENSIONS), which is what
 * Google's rouge_score stems with: M. F. Porter, "An algorithm for suffix stripping", Program 14.3 (1980),
 * with Martin Porter's later changes and NLTK's own. Packages on npm follow Porter alone and differ
 * ("enjoy", "dying", "tied"), so their ROUGE is not that of published tables.
 */

type Condition = (stem: string) => boolean
/** Suffix, what takes its place, and when. */
type Rule = readonly [suffix: string, replacement: string, condition?: Condition]

const irregular: ReadonlyMap<string, string> = new Map([
  ...['sky', 'skies'].map((word) => [word, 'sky'] as const),
  ['dying', 'die'],
  ['lying', 'lie'],
  ['tying', 'tie'],
  ['news', 'news'],
  ...['innings', 'inning'].map((word) => [word, 'inning'] as const),
  ...['outings', 'outing'].map((word) => [word, 'outing'] as const),
  ...['cannings', 'canning'].map((word) => [word, 'canning'] as const),
  ...['howe', 'proceed', 'exceed', 'succeed'].map((word) => [word, word] as const),
])

/** One letter per character: c for a consonant, v for a vowel. A y after a consonant is a vowel. */
function sounds(word: string): string {
  let pattern = ''
  for (const letter of word) {
    const vowel = 'aeiou'.includes(letter) || (letter === 'y' && pattern.endsWith('c'))
    pattern += vowel ? 'v' : 'c'
  }
  return pattern
}

/** Porter's m: how often a consonant follows a vowel. */
function measure(stem: string): number {
  return sounds(stem).split('vc').length - 1
}

const positive: Condition = (stem) => measure(stem) > 0
const aboveOne: Condition = (stem) => measure(stem) > 1
const hasVowel: Condition = (stem) => sounds(stem).includes('v')

function endsDoubleConsonant(word: string): boolean {
  return word.length >= 2 && word.at(-1) === word.at(-2) && sounds(word).endsWith('c')
}

/** Porter's *o: consonant, vowel, consonant other than w, x, y; NLTK adds words that are vowel, consonant. */
function endsShort(word: string): boolean {
  const pattern = sounds(word)
  return (pattern.endsWith('cvc') && !/[wxy]$/.test(word)) || pattern === 'vc'
}

/** The first rule whose suffix the word has decides, also where its condition says no. */
function apply(word: string, rules: readonly Rule[]): string {
  for (const [suffix, replacement, condition] of rules) {
    if (!word.endsWith(suffix)) continue
    const stem = word.slice(0, word.length - suffix.length)
    return condition === undefined || condition(stem) ? stem + replacement : word
  }
  return word
}

function plural(word: string): string {
  if (word.length === 4 && word.endsWith('ies')) return word.slice(0, -1)
  return apply(word, [
    ['sses', 'ss'],
    ['ies', 'i'],
    ['ss', 'ss'],
    ['s', ''],
  ])
}

function pastAndGerund(word: string): string {
  if (word.endsWith('ied')) return word.slice(0, word.length === 4 ? -1 : -2)
  if (word.endsWith('eed')) return apply(word, [['eed', 'ee', positive]])
  const suffix = ['ed', 'ing'].find(
    (ending) => word.endsWith(ending) && hasVowel(word.slice(0, -ending.length)),
  )
  return suffix === undefined ? word : restored(word.slice(0, -suffix.length))
}

/** What a stem gets back that its -ed or -ing took. */
function restored(stem: string): string {
  const ending = ['at', 'bl', 'iz'].find((candidate) => stem.endsWith(candidate))
  if (ending !== undefined) return `${stem}e`
  if (endsDoubleConsonant(stem)) return /[lsz]$/.test(stem) ? stem : stem.slice(0, -1)
  return measure(stem) === 1 && endsShort(stem) ? `${stem}e` : stem
}

function finalY(word: string): string {
  return apply(word, [['y', 'i', (stem) => stem.length > 1 && sounds(stem).endsWith('c')]])
}

const doubleSuffixes: readonly Rule[] = [
  ['ational', 'ate', positive],
  ['tional', 'tion', positive],
  ['enci', 'ence', positive],
  ['anci', 'ance', positive],
  ['izer', 'ize', positive],
  ['bli', 'ble', positive],
  ['alli', 'al', positive],
  ['entli', 'ent', positive],
  ['eli', 'e', positive],
  ['ousli', 'ous', positive],
  ['ization', 'ize', positive],
  ['ation', 'ate', positive],
  ['ator', 'ate', positive],
  ['alism', 'al', positive],
  ['iveness', 'ive', positive],
  ['fulness', 'ful', positive],
  ['ousness', 'ous', positive],
  ['aliti', 'al', positive],
  ['iviti', 'ive', positive],
  ['biliti', 'ble', positive],
  ['fulli', 'ful', positive],
  // The l counts as the stem's, so that geology goes the way of archaeology.
  ['logi', 'log', (stem) => positive(`${stem}l`)],
]

function doubleSuffix(word: string): string {
  const radical = word.slice(0, -'alli'.length)
  if (word.endsWith('alli') && positive(radical)) return doubleSuffix(`${radical}al`)
  return apply(word, doubleSuffixes)
}

const thirdSuffixes: readonly Rule[] = [
  ['icate', 'ic', positive],
  ['ative', '', positive],
  ['alize', 'al', positive],
  ['iciti', 'ic', positive],
  ['ical', 'ic', positive],
  ['ful', '', positive],
  ['ness', '', positive],
]

const fourthSuffixes: readonly Rule[] = [
  ...['al', 'ance', 'ence', 'er', 'ic', 'able', 'ible', 'ant', 'ement', 'ment', 'ent'].map(
    (suffix): Rule => [suffix, '', aboveOne],
  ),
  ['ion', '', (stem) => aboveOne(stem) && /[st]$/.test(stem)],
  ...['ou', 'ism', 'ate', 'iti', 'ous', 'ive', 'ize'].map((suffix): Rule => [suffix, '', aboveOne]),
]

function finalE(word: string): string {
  return apply(word, [['e', '', (stem) => measure(stem) > 1 || (measure(stem) === 1 && !endsShort(stem))]])
}

function finalL(word: string): string {
  return apply(word, [['ll', 'l', (stem) => measure(`${stem}l`) > 1]])
}

/** The stem of a word in lower case; characters other than a to z count as consonants. */
export function stem(word: string): string {
  const known = irregular.get(word)
  if (known !== undefined) return known
  if (word.length <= 2) return word
  const short = doubleSuffix(finalY(pastAndGerund(plural(word))))
  return finalL(finalE(apply(apply(short, thirdSuffixes), fourthSuffixes)))
}
