/** Child process of test/checkpoint.test.ts: begins a checkpoint, says so, and never ends. */
import { writeCheckpoint } from '#lib/checkpoint/write.js'
import { testContents, writeFake } from './checkpoint.js'

const target = process.argv[2] as string
const overwrite = process.argv[3] === 'overwrite'
const stall = new Promise<void>(() => setInterval(() => undefined, 1000))
await writeCheckpoint(
  target,
  testContents({
    writeTensors: async (...call) => {
      await writeFake(...call)
      process.stdout.write('writing\n')
      await stall
    },
  }),
  { overwrite },
)
