import { readdirSync, writeFileSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { prepareTarget, writeDirectory } from '#lib/checkpoint/directory.js'
import { replaceFile } from '#lib/checkpoint/io.js'
import { inTemporaryDirectory } from './support/checkpoint.js'

test('what a run is writing stays, however long it takes, when another of its process begins', () =>
  inTemporaryDirectory(async (directory) => {
    const target = join(directory, 'out')
    const { now } = Date
    const { uptime } = process
    await writeDirectory(target, {}, async (temporary) => {
      writeFileSync(join(temporary, 'a'), 'a')
      try {
        // A minute later.
        Date.now = () => now() + 60_000
        process.uptime = () => uptime() + 60
        await prepareTarget(target)
      } finally {
        Date.now = now
        process.uptime = uptime
      }
    })
    assert.equal(readdirSync(target), ['a'])
  }))

/** How many files and directories are flushed to the disk. */
async function flushesOf(work: () => Promise<unknown>): Promise<number> {
  const handle = await open(process.execPath)
  const prototype = Object.getPrototypeOf(handle) as FileHandle
  await handle.close()
  const { sync } = prototype
  let count = 0
  prototype.sync = function () {
    count++
    return sync.call(this)
  }
  try {
    await work()
  } finally {
    prototype.sync = sync
  }
  return count
}

test('what is renamed into place is on the disk before: its files, and the directories with their names', () =>
  inTemporaryDirectory(async (directory) => {
    const directories = process.platform === 'win32' ? 0 : 1
    const fill = async (temporary: string) => {
      for (const name of ['a', 'b']) writeFileSync(join(temporary, name), name)
    }
    assert.is(await flushesOf(() => writeDirectory(join(directory, 'out'), {}, fill)), 2 + 2 * directories)
    assert.is(await flushesOf(() => replaceFile(join(directory, 'out', 'a'), 'new')), 1 + directories)
  }))

test.run()
