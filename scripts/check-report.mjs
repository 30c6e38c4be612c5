// Opens a report of the embedded model in headless Chromium: light and dark, narrow and wide, and on paper.
// With a folder as argument, screenshots stay there. Says `skipped: ` where there is no Chromium.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { root } from './setup/log.mjs'
import { browserNames, findBrowser, papers } from './test/browser.mjs'

const sizes = { wide: [1100, 900], narrow: [390, 844] }

/** Runs in the page. */
function look() {
  const page = document.documentElement
  const figures = [...document.querySelectorAll('figure svg[role=img]')]
  const boxes = figures.map((svg) => svg.getBoundingClientRect())
  return {
    overflow: page.scrollWidth - innerWidth,
    background: getComputedStyle(document.body).backgroundColor,
    figures: boxes.length,
    flat: boxes.filter(({ width, height }) => width < 200 || height < 40).length,
    clipped: figures
      .filter((svg) => {
        const box = svg.getBoundingClientRect()
        return [...svg.querySelectorAll('text')].some((text) => {
          const { left, right } = text.getBoundingClientRect()
          return left < box.left - 1 || right > box.right + 1
        })
      })
      .map((svg) => svg.getAttribute('aria-labelledby')),
  }
}

const problems = []
const browser = findBrowser()
const folder = mkdtempSync(path.join(tmpdir(), 'flrc-report-'))
try {
  if (browser === undefined) console.log(`skipped: none of ${browserNames.join(', ')} is installed`)
  else check(makeReport(), process.argv[2])
} finally {
  rmSync(folder, { recursive: true, force: true })
}
for (const problem of problems) console.log(`FAIL ${problem}`)
if (problems.length > 0) process.exitCode = 1

function makeReport() {
  const tiny = path.join(root, 'models', 'tiny')
  const text = path.join(tiny, 'calibration.txt')
  const report = path.join(folder, 'report.html')
  const small = path.join(folder, 'small')
  const kept = ['--keep', '.8', '--levels', '.8,.7,.6']
  flrc('compress', tiny, '-o', small, ...kept, '--calibration', text, '--samples', '16')
  flrc('report', small, '-o', report, '--quality', path.join(root, 'bench', 'results', 'quality-tiny.json'))
  return report
}

function flrc(...args) {
  const { status, stderr } = spawnSync(process.execPath, [path.join(root, 'dist/cli/main.js'), ...args])
  if (status !== 0) throw new Error(`flrc ${args[0]} failed: ${stderr}`)
}

function check(report, pictures) {
  if (pictures !== undefined) mkdirSync(pictures, { recursive: true })
  for (const [size, [width, height]] of Object.entries(sizes)) {
    for (const [paper, flags] of Object.entries(papers)) {
      const name = `${paper}, ${size}`
      const window = [`--window-size=${width},${height}`, ...flags]
      const seen = browser.ask(report, window, look)
      const expect = (holds, what) => holds || problems.push(`${name}: ${what}`)
      expect(seen.overflow <= 0, `the page is ${seen.overflow} pixels wider than the window`)
      expect(seen.figures >= 6 && seen.flat === 0, `${seen.flat} of ${seen.figures} figures have no size`)
      expect(seen.clipped?.length === 0, `text runs out of ${seen.clipped}`)
      expect(
        (seen.background === 'rgb(255, 255, 255)') === (paper === 'light'),
        `the paper is ${seen.background}`,
      )
      if (pictures !== undefined) browser.picture(report, window, path.join(pictures, `${paper}-${size}.png`))
    }
  }
  const pdf = path.join(folder, 'report.pdf')
  browser.open(report, [`--print-to-pdf=${pdf}`, '--no-pdf-header-footer'])
  const pages = existsSync(pdf) ? (readFileSync(pdf, 'latin1').match(/\/Type \/Page\b/g)?.length ?? 0) : 0
  if (pages < 2 || pages > 12) problems.push(`printed on ${pages} pages`)
  console.log(
    `${browser.name}: ${Object.keys(sizes).length * Object.keys(papers).length} views, ${pages} pages printed`,
  )
}
