import type { PlotOptions } from '@observablehq/plot'
import { colour, coloursOn } from './colours.js'

/** What a figure is to those who cannot see it, and its name in the page. */
export interface FigureText {
  /** Unique in its page; letters, digits and dashes. */
  id: string
  title: string
  /** One or two sentences: what is drawn, and what one sees. */
  description: string
}

export type PlotLibrary = typeof import('@observablehq/plot')

const svgNamespace = 'http://www.w3.org/2000/svg'

/** Plot takes a tenth of a second to load, which only those who draw should wait for. */
export function plotLibrary(): Promise<PlotLibrary> {
  return import('@observablehq/plot')
}

/** Text of 12 pixels is about this wide a character. */
const characterWidth = 6.4

export function textWidth(text: string): number {
  return text.length * characterWidth
}

/**
 * A plot as SVG text for the body of an HTML page whose style sheet gives the colours' variables (`coloursOn`).
 * For a file of its own: `standalone`.
 */
export async function draw(figure: FigureText, options: PlotOptions): Promise<string> {
  const [{ plot }, document] = await Promise.all([plotLibrary(), emptyPage()])
  const svg = plot({
    style: { fontSize: '12px', fontFamily: 'system-ui, sans-serif', background: 'none', overflow: 'visible' },
    ...options,
    document,
  })
  return named(svg, figure, document).outerHTML
}

/** Plots one below the other as one figure. */
export async function stacked(figure: FigureText, plots: readonly string[]): Promise<string> {
  const document = await emptyPage()
  let [width, height] = [0, 0]
  // Groups: Plot's style gives every svg element a height that, within another, browsers read differently.
  const groups = plots.map((svg) => {
    const [whole = '', attributes = ''] = /^<svg ([^>]*)>/.exec(svg) ?? []
    const [, across, down] = /viewBox="0 0 (\d+) (\d+)"/.exec(attributes) ?? []
    const own = attributes.replace(/(^| )(viewBox|width|height)="[^"]*"/g, '')
    const group = `<g transform="translate(0,${height})" ${own}>${svg.slice(whole.length, -'</svg>'.length)}</g>`
    width = Math.max(width, Number(across))
    height += Number(down)
    return group
  })
  const svg = document.createElementNS(svgNamespace, 'svg')
  const size = { width, height, viewBox: `0 0 ${width} ${height}` }
  for (const [name, value] of Object.entries(size)) svg.setAttribute(name, String(value))
  return named(svg, figure, document).outerHTML.replace(/<\/svg>$/, () => `${groups.join('')}</svg>`)
}

async function emptyPage() {
  const { parseHTML } = await import('linkedom')
  return parseHTML('<!doctype html><html><body></body></html>').document
}

function named(
  svg: ReturnType<PlotLibrary['plot']>,
  { id, title, description }: FigureText,
  document: Awaited<ReturnType<typeof emptyPage>>,
) {
  const name = (tag: 'title' | 'desc', text: string) => {
    const element = document.createElementNS(svgNamespace, tag)
    element.setAttribute('id', `${id}-${tag}`)
    element.textContent = text
    return element
  }
  svg.prepend(name('title', title), name('desc', description))
  svg.setAttribute('role', 'img')
  svg.setAttribute('aria-labelledby', `${id}-title ${id}-desc`)
  return svg
}

/** The SVG as the text of a file: on white paper, since what shows the file may be light or dark. */
export function standalone(svg: string): string {
  const colours = coloursOn('light')
  const coloured = svg.replace(/var\(--([\w-]+)\)/g, (whole, name: string) => colours[name] ?? whole)
  const opened = coloured.replace(/^<svg /, `<svg xmlns="http://www.w3.org/2000/svg" color="${colours.ink}" `)
  const background = `<rect width="100%" height="100%" fill="${colours.paper}"/>`
  return `${opened.replace('</desc>', `</desc>${background}`)}\n`
}

export const gridStroke = { stroke: colour('rule'), strokeOpacity: 1 }
