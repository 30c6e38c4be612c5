"""Time what a PyTorch user pays for Fisher information: forward and backward with weight gradients.

A Llama of SmolLM2-135M's shape with random weights, sequences of random tokens. Batches of one and of
four sequences are tried on warm-up data first and the faster is timed. Prints one JSON line:
{sequences, seqLen, seconds, tokensPerSecond, secondsPerSequenceMedian, ...}. Needs scripts/pytorch/requirements.txt.

    python bench/pytorch_calibration.py --sequences 16
"""

import argparse
import json
import statistics
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SHAPE = dict(
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    vocab_size=49152,
    tie_word_embeddings=True,
    max_position_embeddings=8192,
    rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
)
BATCHES = (1, 4)


def timed_batch(model, ids):
    """Seconds of one forward and backward over ids [B, T]; the summed loss, as calibration wants it."""
    started = time.perf_counter()
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum").backward()
    # Gradients go back to none between sequences: their squares, not their sum, are what is wanted.
    model.zero_grad(set_to_none=True)
    return time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE)).to(getattr(torch, args.dtype)).train()
    draw = lambda count: torch.randint(SHAPE["vocab_size"], (count, args.seq_len))

    timed_batch(model, draw(1))  # the first call allocates and initialises
    trials = {size: timed_batch(model, draw(size)) / size for size in BATCHES if size <= args.sequences}
    batch = min(trials, key=trials.get)

    per_sequence, seconds, left = [], 0.0, args.sequences
    while left:
        size = min(batch, left)
        took = timed_batch(model, draw(size))
        seconds += took
        per_sequence += [took / size] * size
        left -= size
    print(
        json.dumps(
            {
                "dtype": args.dtype,
                "sequences": args.sequences,
                "seqLen": args.seq_len,
                "seconds": round(seconds, 3),
                "tokensPerSecond": round(args.sequences * args.seq_len / seconds, 1),
                "secondsPerSequenceMedian": round(statistics.median(per_sequence), 3),
                "batch": batch,
                "threads": args.threads,
                "torch": torch.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
