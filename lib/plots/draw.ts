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
export async function draw({ id, title, description }: FigureText, options: PlotOptions): Promise<string> {
  const [{ plot }, { parseHTML }] = await Promise.all([plotLibrary(), import('linkedom')])
  const { document } = parseHTML('<!doctype html><html><body></body></html>')
  const svg = plot({
    style: { fontSize: '12px', fontFamily: 'system-ui, sans-serif', background: 'none', overflow: 'visible' },
    ...options,
    document,
  })
  const named = (tag: 'title' | 'desc', text: string) => {
    const element = document.createElementNS('http://www.w3.org/2000/svg', tag)
    element.setAttribute('id', `${id}-${tag}`)
    element.textContent = text
    return element
  }
  svg.prepend(named('title', title), named('desc', description))
  svg.setAttribute('role', 'img')
  svg.setAttribute('aria-labelledby', `${id}-title ${id}-desc`)
  return svg.outerHTML
}

/** The SVG as the text of a file: on white paper, since what shows the file may be light or dark. */
export function standalone(svg: string): string {
  const colours = coloursOn('light')
  const coloured = svg.replace(/var\(--([\w-]+)\)/g, (whole, name: string) => colours[name] ?? whole)
  const opened = coloured.replace(/^<svg /, `<svg xmlns="http://www.w3.org/2000/svg" color="${colours.ink}" `)
  const background = `<rect width="100%" height="100%" fill="${colours.paper}"/>`
  return `${opened.replace('</style>', `</style>${background}`)}\n`
}

export const gridStroke = { stroke: colour('rule'), strokeOpacity: 1 }
