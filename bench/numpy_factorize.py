"""Time LAPACK's gesdd, through numpy, on all projections of a GGUF model: what factorising them costs without us.

Prints one JSON line: {matrices, rounds, seconds, spread}, seconds being those of all matrices, median of the rounds.
Needs numpy and gguf; `npm run bench -- calibration` prints ours as factorizeSeconds.

    python bench/numpy_factorize.py MODEL.gguf [--layers 6] [--rounds 3]

With --layers some layers at even distances are timed and multiplied.
"""

import argparse
import json
import re
import statistics
import time

import gguf
import numpy as np

PROJECTION = re.compile(r"blk\.(\d+)\.(attn_[qkv]|attn_output|ffn_gate|ffn_up|ffn_down)\.weight")


def projections(path):
    """Matrices [m, n] in fp32 by layer."""
    layers = {}
    for tensor in gguf.GGUFReader(path).tensors:
        match = PROJECTION.fullmatch(tensor.name)
        if match:
            weights = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            layers.setdefault(int(match[1]), []).append(weights)
    return [layers[layer] for layer in sorted(layers)]


def seconds_of(matrices):
    begin = time.perf_counter()
    for matrix in matrices:
        np.linalg.svd(matrix, full_matrices=False)
    return time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--layers", type=int, default=0, help="how many to time; all by default")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    layers = projections(options.model)
    step = max(1, len(layers) // options.layers) if options.layers else 1
    timed = [matrix for layer in layers[::step] for matrix in layer]
    every = sum(len(layer) for layer in layers)
    seconds_of(timed[:1])
    seconds = [seconds_of(timed) * every / len(timed) for _ in range(options.rounds)]
    print(
        json.dumps(
            {
                "matrices": every,
                "rounds": options.rounds,
                "seconds": statistics.median(seconds),
                "spread": [min(seconds), max(seconds)],
            }
        )
    )


if __name__ == "__main__":
    main()
