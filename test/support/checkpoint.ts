import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { CheckpointContents } from '#lib/checkpoint/write.js'
import type { HeaderEntry } from '#lib/format/safetensors.js'

/** Runs a test in a directory of its own. */
export async function inTemporaryDirectory(run: (directory: string) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'flrc-checkpoint-'))
  try {
    await run(directory)
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

export const testEntries: HeaderEntry[] = [
  { name: 'model.embed_tokens.weight', type: 'BF16', shape: [4, 8], byteLength: 64 },
  { name: 'model.layers.0.mlp.up_proj.P.0', type: 'BF16', shape: [2, 8], byteLength: 32 },
  { name: 'model.layers.0.mlp.up_proj.C.0', type: 'BF16', shape: [2, 14], byteLength: 56 },
  { name: 'model.layers.0.mlp.up_proj.I.0', type: 'I32', shape: [2], byteLength: 8 },
]

/** Byte that the fake writer fills a tensor with. */
export function fillOf(name: string): number {
  return testEntries.findIndex((entry) => entry.name === name) + 1
}

/** A stand-in for the native writer. */
export async function writeFake(file: string, names: string[], offsets: Float64Array): Promise<void> {
  const descriptor = openSync(file, 'r+')
  try {
    for (const [i, name] of names.entries()) {
      const size = testEntries.find((entry) => entry.name === name)?.byteLength ?? 0
      writeSync(descriptor, Buffer.alloc(size, fillOf(name)), 0, size, offsets[i])
    }
  } finally {
    closeSync(descriptor)
  }
}

/** A stand-in that writes until the disk is full. */
export async function writeWithoutEnd(file: string): Promise<void> {
  const descriptor = openSync(file, 'r+')
  try {
    const block = Buffer.alloc(1 << 20, 1)
    for (;;) writeSync(descriptor, block)
  } finally {
    ftruncateSync(descriptor, 0)
    closeSync(descriptor)
  }
}

export function testContents(changes: Partial<CheckpointContents> = {}): CheckpointContents {
  return {
    header: {
      version: 1,
      keep: 0.9,
      levels: [
        { budget: 0.89, ranks: { 'model.layers.0.mlp.up_proj': 2, 'model.layers.0.mlp.down_proj': 'dense' } },
        { budget: 0.7, ranks: { 'model.layers.0.mlp.up_proj': 1, 'model.layers.0.mlp.down_proj': 'dense' } },
      ],
      dtype: 'bf16',
      storage: 'pivoted',
      source: { model_type: 'llama', hidden_size: 8 },
    },
    tokenizer: {
      tokenizer: { version: '1.0', model: { type: 'BPE' } },
      config: { bos_token: '<s>' },
      chatTemplate: '{{ messages }}',
    },
    generation: { eos_token_id: 2 },
    entries: testEntries,
    writeTensors: writeFake,
    plan: {
      version: 1,
      method: 'curve',
      storage: 'pivoted',
      dtype: 'bf16',
      budgets: [0.9, 0.7],
      options: { seed: 1, whitening: 'two-sided' },
      model: { sha256: 'aa' },
      calibration: { sha256: 'bb', tokens: 1024, windows: 2, sources: [] },
      scores: { 'model.layers.0.mlp.up_proj': 1 / 3 },
      curves: { 'model.layers.0.mlp.up_proj': Float64Array.of(3, 2 / 3, 0) },
      versions: { flrc: '0.1.0' },
    },
    card: { name: 'tiny' },
    ...changes,
  }
}
