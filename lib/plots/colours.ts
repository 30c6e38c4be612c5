/**
 * Colours by name, for light and for dark paper. Series differ for readers with any common colour blindness and
 * stand out from the paper at 3:1 or more; their symbols and labels tell them apart without colour. The ramp
 * rises in lightness alone.
 */
const series = {
  light: ['#0072b2', '#d55e00', '#00846a', '#a3124a', '#b07800', '#5b4fa3', '#2a8fbf', '#57606a'],
  dark: ['#5fb2ea', '#ff9a5c', '#43cfaa', '#ff7da0', '#f0c04e', '#ada2f5', '#93d5f5', '#a7b0ba'],
}
const ramp = {
  light: ['#edf3f9', '#d9e6f2', '#c0d6ea', '#9fc0df', '#79a6d1', '#5589c0', '#386dab', '#215291', '#0b3870'],
  dark: ['#18222d', '#1d3145', '#23425f', '#2b557c', '#356a9b', '#528bc0', '#6a9fd0', '#92bce3', '#c2dcf5'],
}
const onPale = '#101820'
const onDeep = '#ffffff'
/** The first class of the ramp that takes the other colour of text. */
const turn = { light: 6, dark: 5 }

export type Paper = 'light' | 'dark'

export const seriesColours = series.light.length
/** The grey one: of what all others are compared with. */
export const neutralStyle = seriesColours - 1
export const rampClasses = ramp.light.length

/** The value of every colour's variable, `--` left out. */
export function coloursOn(paper: Paper): Record<string, string> {
  const plain = {
    light: { paper: '#ffffff', ink: '#1b2128', muted: '#57606a', rule: '#d5dae0' },
    dark: { paper: '#12161b', ink: '#e6eaee', muted: '#a7b0ba', rule: '#363e48' },
  }[paper]
  const [below, above] = paper === 'light' ? [onPale, onDeep] : [onDeep, onPale]
  return {
    ...plain,
    ...Object.fromEntries(series[paper].map((colour, index) => [`series-${index}`, colour])),
    ...Object.fromEntries(ramp[paper].map((colour, index) => [`ramp-${index}`, colour])),
    ...Object.fromEntries(
      ramp[paper].map((_, index) => [`on-ramp-${index}`, index < turn[paper] ? below : above]),
    ),
  }
}

export function colour(name: string): string {
  return `var(--${name})`
}

export function seriesColour(index: number): string {
  return colour(`series-${index % seriesColours}`)
}

/** The class of the ramp that a share in [0, 1] belongs to. */
export function rampClass(share: number): number {
  return Math.min(rampClasses - 1, Math.max(0, Math.floor(share * rampClasses)))
}
