// Opens a report of the embedded model in headless Chromium: light and dark, narrow and wide, and on paper.
// With a folder as argument, screenshots stay there. Says `skipped: ` where there is no Chromium.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { root } from './setup/log.mjs'

const names = ['chromium', 'chromium-browser', 'google-chrome']
const sizes = { wide: [1100, 900], narrow: [390, 844] }
const papers = { light: [], dark: ['--blink-settings=preferredColorScheme=0'] }

/** Appended to a copy of the page, which has no scripts of its own: what the browser made of it. */
const probe = `<script>addEventListener('load', () => {
  const root = document.documentElement
  const boxes = [...document.querySelectorAll('figure svg[role=img]')].map((svg) => svg.getBoundingClientRect())
  const seen = {
    overflow: root.scrollWidth - innerWidth,
    background: getComputedStyle(document.body).backgroundColor,
    figures: boxes.length,
    flat: boxes.filter(({ width, height }) => width < 200 || height < 40).length,
    clipped: [...document.querySelectorAll('figure svg[role=img]')].filter((svg) => {
      const box = svg.getBoundingClientRect()
      return [...svg.querySelectorAll('text')].some((text) => {
        const { left, right } = text.getBoundingClientRect()
        return left < box.left - 1 || right > box.right + 1
      })
    }).map((svg) => svg.getAttribute('aria-labelledby')),
  }
  document.body.innerHTML = '<pre id="seen">' + JSON.stringify(seen) + '</pre>'
})</script>`

const problems = []
const browser = names.find((name) => spawnSync(name, ['--version']).status === 0)
const folder = mkdtempSync(path.join(tmpdir(), 'flrc-report-'))
try {
  if (browser === undefined) console.log(`skipped: none of ${names.join(', ')} is installed`)
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
  flrc(
    'compress',
    tiny,
    '-o',
    small,
    '--keep',
    '.8',
    '--levels',
    '.8,.7,.6',
    '--calibration',
    text,
    '--samples',
    '16',
  )
  flrc('report', small, '-o', report, '--quality', path.join(root, 'bench', 'results', 'quality-tiny.json'))
  return report
}

function flrc(...args) {
  const { status, stderr } = spawnSync(process.execPath, [path.join(root, 'dist/cli/main.js'), ...args])
  if (status !== 0) throw new Error(`flrc ${args[0]} failed: ${stderr}`)
}

function check(report, pictures) {
  const html = readFileSync(report, 'utf8')
  const probed = path.join(folder, 'probed.html')
  writeFileSync(
    probed,
    html.replace(/<meta http-equiv="Content-Security-Policy"[^>]*>/, '').replace('</body>', `${probe}</body>`),
  )
  for (const [size, [width, height]] of Object.entries(sizes)) {
    for (const [paper, flags] of Object.entries(papers)) {
      const name = `${paper}, ${size}`
      const window = [`--window-size=${width},${height}`, ...flags]
      const seen = JSON.parse(
        /<pre id="seen">(.*)<\/pre>/.exec(open(probed, [...window, '--dump-dom']))?.[1] ?? '{}',
      )
      const expect = (holds, what) => holds || problems.push(`${name}: ${what}`)
      expect(seen.overflow <= 0, `the page is ${seen.overflow} pixels wider than the window`)
      expect(seen.figures >= 6 && seen.flat === 0, `${seen.flat} of ${seen.figures} figures have no size`)
      expect(seen.clipped?.length === 0, `text runs out of ${seen.clipped}`)
      expect(
        (seen.background === 'rgb(255, 255, 255)') === (paper === 'light'),
        `the paper is ${seen.background}`,
      )
      if (pictures !== undefined) picture(report, pictures, `${paper}-${size}`, window)
    }
  }
  const pdf = path.join(folder, 'report.pdf')
  open(report, [`--print-to-pdf=${pdf}`, '--no-pdf-header-footer'])
  const pages = existsSync(pdf) ? (readFileSync(pdf, 'latin1').match(/\/Type \/Page\b/g)?.length ?? 0) : 0
  if (pages < 2 || pages > 12) problems.push(`printed on ${pages} pages`)
  console.log(
    `${browser}: ${Object.keys(sizes).length * Object.keys(papers).length} views, ${pages} pages printed`,
  )
}

function picture(report, pictures, name, window) {
  mkdirSync(pictures, { recursive: true })
  const file = path.resolve(pictures, `${name}.png`)
  open(report, [...window, '--hide-scrollbars', `--screenshot=${file}`])
  if (!existsSync(file) || statSync(file).size < 10_000) problems.push(`no picture ${name}`)
}

function open(file, args) {
  const profile = mkdtempSync(path.join(folder, 'profile-'))
  const quiet = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking']
  const all = [...quiet, `--user-data-dir=${profile}`, ...args, pathToFileURL(file).href]
  const { status, stdout } = spawnSync(browser, all, { encoding: 'utf8', timeout: 60_000, maxBuffer: 1 << 28 })
  if (status !== 0) problems.push(`${browser} ended with ${status}`)
  return stdout
}
