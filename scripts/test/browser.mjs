import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { StepError } from '../setup/log.mjs'

export const browserNames = ['chromium', 'chromium-browser', 'google-chrome']

/** What makes a page see a light or a dark system. */
export const papers = { light: [], dark: ['--blink-settings=preferredColorScheme=0'] }

/** Headless Chromium, or undefined where there is none. */
export function findBrowser() {
  const name = browserNames.find((candidate) => spawnSync(candidate, ['--version']).status === 0)
  return name === undefined ? undefined : new Browser(name)
}

class Browser {
  constructor(name) {
    this.name = name
  }

  /** Opens a page and returns what the browser printed. Throws a StepError where it fails. */
  open(file, flags) {
    const profile = mkdtempSync(path.join(tmpdir(), 'flrc-browser-'))
    try {
      const quiet = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking']
      const args = [...quiet, `--user-data-dir=${profile}`, ...flags, pathToFileURL(file).href]
      const options = { encoding: 'utf8', timeout: 60_000, maxBuffer: 1 << 28 }
      const { status, stdout, stderr } = spawnSync(this.name, args, options)
      if (status === 0) return stdout
      throw new StepError(this.name, String(stderr).trim().split('\n').at(-1), `it ended with ${status}`)
    } finally {
      rmSync(profile, { recursive: true, force: true })
    }
  }

  /**
   * What a function finds in a page, called there with nothing when all is loaded. The page's own policy lets no
   * script run, so it is opened as a copy without one.
   */
  ask(file, flags, question) {
    const script = `<script>addEventListener('load', () => {
      const found = JSON.stringify((${question})())
      document.body.innerHTML = '<pre id="found"></pre>'
      document.getElementById('found').textContent = found
    })</script>`
    const probed = `${file}.probed.html`
    const html = readFileSync(file, 'utf8').replace(/<meta http-equiv="Content-Security-Policy"[^>]*>/, '')
    writeFileSync(probed, html.replace('</body>', `${script}</body>`))
    const seen = /<pre id="found">(.*)<\/pre>/.exec(this.open(probed, [...flags, '--dump-dom']))?.[1] ?? '{}'
    return JSON.parse(seen.replaceAll('&lt;', '<').replaceAll('&gt;', '>').replaceAll('&amp;', '&'))
  }

  /** Throws where the picture has nothing to see. */
  picture(file, flags, to) {
    this.open(file, [...flags, '--hide-scrollbars', `--screenshot=${path.resolve(to)}`])
    if (existsSync(to) && statSync(to).size >= 10_000) return
    throw new StepError(`a picture of ${path.basename(file)}`, undefined, `${to} is empty`)
  }
}
