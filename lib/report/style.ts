import { coloursOn, type Paper } from '../plots.js'

function variables(paper: Paper): string {
  return Object.entries(coloursOn(paper))
    .map(([name, value]) => `--${name}:${value}`)
    .join(';')
}

/** The page's style sheet: light and dark, narrow and wide, on screen and on paper. */
export const style = `
:root { color-scheme: light; ${variables('light')} }
@media screen and (prefers-color-scheme: dark) { :root { color-scheme: dark; ${variables('dark')} } }
*, *::before, *::after { box-sizing: border-box }
html { -webkit-text-size-adjust: 100% }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
  font-variant-numeric: tabular-nums;
}
.page { max-width: 50rem; margin: 0 auto; padding: 3rem 1.5rem 5rem }
.skip { position: absolute; left: -100rem }
.skip:focus { left: 1rem; top: 1rem; padding: .5rem .75rem; background: var(--paper); outline: 2px solid var(--ink) }
a { color: inherit; text-decoration-color: var(--muted); text-underline-offset: .2em }
a:focus-visible, summary:focus-visible, .scroll:focus-visible { outline: 2px solid var(--series-0); outline-offset: 2px }
h1 { margin: 0; font-size: 2rem; line-height: 1.2; font-weight: 650; letter-spacing: -.015em; overflow-wrap: anywhere }
h2 { margin: 0 0 .5rem; font-size: 1.3rem; line-height: 1.3; font-weight: 650; letter-spacing: -.005em }
p { margin: 0 0 1rem; max-width: 42rem }
header p { margin-top: .5rem; color: var(--muted); font-size: 1.05rem }
nav ol { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 1.5rem 0 0; padding: 0; list-style: none; font-size: .9rem }
section { margin-top: 3rem; padding-top: 1.75rem; border-top: 1px solid var(--rule) }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(7.5rem, 1fr)); gap: 1.25rem 1rem; margin: 2rem 0 0 }
.facts div { border-left: 2px solid var(--series-0); padding-left: .75rem }
.facts dt { color: var(--muted); font-size: .85rem; line-height: 1.35 }
.facts dd { margin: .1rem 0 0; font-size: 1.35rem; line-height: 1.3; font-weight: 600 }
.facts dd small { display: block; color: var(--muted); font-size: .85rem; font-weight: 400 }
figure { margin: 1.5rem 0 0 }
figure svg { display: block; width: 100%; height: auto; --plot-background: var(--paper) }
figcaption { margin-top: .75rem; font-size: .925rem; max-width: 42rem }
.ramp { display: flex; align-items: center; gap: .5rem; margin-top: .5rem; font-size: .85rem; color: var(--muted) }
.ramp span[aria-hidden] { display: inline-flex }
.ramp i { width: 1.4rem; height: .8rem; border: 1px solid var(--rule) }
.scroll { overflow-x: auto }
details { margin-top: .75rem; font-size: .875rem }
summary { cursor: pointer; color: var(--muted); width: fit-content }
table { border-collapse: collapse; margin-top: .5rem; font-size: .875rem; line-height: 1.4 }
caption { text-align: left; color: var(--muted); padding-bottom: .35rem }
th, td { padding: .25rem .9rem .25rem 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--rule) }
th { font-weight: 600 }
th:first-child, .words { text-align: left }
tbody th { font-weight: 400 }
footer { margin-top: 3.5rem; padding-top: 1rem; border-top: 1px solid var(--rule); color: var(--muted); font-size: .85rem }
code { font: .9em ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere }
@media (max-width: 40rem) {
  .page { padding: 1.75rem 1rem 3rem }
  h1 { font-size: 1.6rem }
  figure svg { min-width: 34rem }
}
@media print {
  @page { margin: 16mm }
  html { font-size: 10pt }
  body { -webkit-print-color-adjust: exact; print-color-adjust: exact }
  .page { max-width: none; padding: 0 }
  nav, .skip, details:not([open]) { display: none }
  section { margin-top: 8mm; padding-top: 4mm }
  .together, figure, .facts, tr { break-inside: avoid }
  figure svg { min-width: 0; max-height: 210mm }
  .scroll { overflow: visible }
  details > summary { display: none }
}
`
