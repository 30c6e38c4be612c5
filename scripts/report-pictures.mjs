// `node scripts/report-pictures.mjs CHECKPOINT [FOLDER]`: the pictures of docs/images, of the report of this checkpoint
// beside the rows of bench/results. Needs Chromium.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { reportHtml } from '#lib/report.js'
import { root } from './setup/log.mjs'
import { browserNames, findBrowser, papers } from './test/browser.mjs'

const quality = path.join(root, 'bench', 'results', 'quality-smollm2-135m.json')
const width = 860

/** What of the page each picture shows. */
const pictures = {
  report: 'section:not(#size), footer { display: none }',
  ranks:
    'header, section:not(#scores, #ranks), footer { display: none } section:first-of-type, #scores { margin: 0; border: 0 }',
}

const [checkpoint, folder = path.join(root, 'docs', 'images')] = process.argv.slice(2)
const browser = findBrowser()
if (checkpoint === undefined) throw new Error('give the directory of a checkpoint of SmolLM2-135M-Instruct')
if (browser === undefined) throw new Error(`none of ${browserNames.join(', ')} is installed`)

const html = await reportHtml(checkpoint, [quality])
const scratch = mkdtempSync(path.join(tmpdir(), 'flrc-pictures-'))
try {
  for (const [name, style] of Object.entries(pictures)) {
    const page = path.join(scratch, `${name}.html`)
    writeFileSync(
      page,
      html.replace('</head>', `<style>${style} .page { padding-bottom: 1.5rem }</style></head>`),
    )
    const height = browser.ask(page, [`--window-size=${width},600`], () => document.body.scrollHeight)
    for (const [paper, flags] of Object.entries(papers)) {
      const png = path.join(scratch, 'picture.png')
      browser.picture(page, [`--window-size=${width},${height}`, ...flags], png)
      writeFileSync(path.join(folder, `${name}-${paper}.webp`), webp(png))
    }
  }
} finally {
  rmSync(scratch, { recursive: true, force: true })
}

/** A picture in less than half of its bytes, as the browser encodes it. */
function webp(png) {
  const page = path.join(scratch, 'picture.html')
  const source = `data:image/png;base64,${readFileSync(png, 'base64')}`
  writeFileSync(page, `<body><img src="${source}"></body>`)
  const encoded = browser.ask(page, [], () => {
    const image = document.querySelector('img')
    const canvas = document.createElement('canvas')
    canvas.width = image.naturalWidth
    canvas.height = image.naturalHeight
    canvas.getContext('2d').drawImage(image, 0, 0)
    return canvas.toDataURL('image/webp', 0.7)
  })
  return Buffer.from(encoded.replace(/^data:image\/webp;base64,/, ''), 'base64')
}
