import { rampClasses } from '../plots.js'
import { escapeHtml, type Figure, type Section, tableHtml } from './html.js'
import { style } from './style.js'

/** A figure of the head of the page: a name, its value, and a remark. */
export interface Fact {
  name: string
  value: string
  remark?: string
}

export interface Page {
  title: string
  subtitle: string
  facts: readonly Fact[]
  sections: readonly Section[]
  footer: string
}

/** One HTML document with all it needs in it: nothing is loaded, and it is read without scripts. */
export function pageHtml({ title, subtitle, facts, sections, footer }: Page): string {
  const contents = sections.map(({ id, title: name }) => `<li><a href="#${id}">${escapeHtml(name)}</a></li>`)
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>${escapeHtml(title)} - flrc report</title>
<style>${style}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the figures</a>
<div class="page">
<header>
<h1>${escapeHtml(title)}</h1>
<p>${escapeHtml(subtitle)}</p>
<dl class="facts">${facts.map(factHtml).join('')}</dl>
<nav aria-label="Contents"><ol>${contents.join('')}</ol></nav>
</header>
<main id="main">
${sections.map(sectionHtml).join('\n')}
</main>
<footer>${escapeHtml(footer)}</footer>
</div>
</body>
</html>
`
}

function factHtml({ name, value, remark }: Fact): string {
  const small = remark === undefined ? '' : `<small>${escapeHtml(remark)}</small>`
  return `<div><dt>${escapeHtml(name)}</dt><dd>${escapeHtml(value)}${small}</dd></div>`
}

function sectionHtml({ id, title, lead, figures }: Section): string {
  const [first = '', ...rest] = figures.map(figureHtml)
  return `<section id="${id}" aria-labelledby="${id}-heading">
<div class="together">
<h2 id="${id}-heading">${escapeHtml(title)}</h2>
<p>${escapeHtml(lead)}</p>
${first}
</div>
${rest.join('\n')}
</section>`
}

function figureHtml({ svg, caption, table, ramp }: Figure): string {
  const text = `<figcaption>${escapeHtml(caption)}</figcaption>`
  if (svg === undefined) return `<figure>${tableHtml(table)}${text}</figure>`
  const region = `<div class="scroll" tabindex="0" role="region" aria-label="${escapeHtml(table.caption)}, figure">`
  const scale = ramp === undefined ? '' : rampHtml(ramp)
  const details = `<details><summary>The same as a table</summary>${tableHtml(table)}</details>`
  return `<figure>${region}${svg}</div>${scale}${text}${details}</figure>`
}

function rampHtml({ from, to }: { from: string; to: string }): string {
  const swatches = Array.from({ length: rampClasses }, (_, i) => `<i style="background:var(--ramp-${i})"></i>`)
  return `<div class="ramp">${escapeHtml(from)}<span aria-hidden="true">${swatches.join('')}</span>${escapeHtml(to)}</div>`
}
