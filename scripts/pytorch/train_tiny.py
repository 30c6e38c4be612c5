"""Train the embedded model, models/tiny: a 1.1M-parameter Llama on public-domain prose.

Sources (read only): ../shared/data/text/{grimm,tinyshakespeare}.txt. The last 5% of each file is
held out: neither the tokenizer nor the model sees it, and what of it the first 95% repeat (grimm.txt ends
in 17 kB that stand in it once more) is not counted as held out. The weights written are those of the last
step; the held-out loss is reported, never used to choose a step.

    python scripts/pytorch/train_tiny.py                                  the committed model
    python scripts/pytorch/train_tiny.py --steps 550 --out FOLDER         a quick one
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM

REPO = Path(__file__).resolve().parents[2]
TEXT = REPO.parent / "shared" / "data" / "text"
FILES = ["grimm", "tinyshakespeare"]
HELD_OUT_SHARE = 0.05
HELD_OUT_BYTES = 56_000
COMMON_LINE = 20  # characters: shorter lines (a speaker's name) recur by nature
CALIBRATION_BYTES = 100_000
CALIBRATION_PASSAGES = 5  # per source
WINDOW = 256
CONTEXT = 512
DROPOUT = 0.1
CHAT_SHARE = 0.15

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
END_OF_TEXT, IM_START, IM_END = range(3)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# The published form of the configuration (rope_theta at the top level), which every reader knows.
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": END_OF_TEXT,
    "eos_token_id": IM_END,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 128,
    "initializer_range": 0.02,
    "intermediate_size": 256,
    "max_position_embeddings": CONTEXT,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 6,
    "num_key_value_heads": 2,
    "pad_token_id": END_OF_TEXT,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 1536,
}

GENERATION_CONFIG = {
    "bos_token_id": END_OF_TEXT,
    "eos_token_id": [END_OF_TEXT, IM_END],
    "pad_token_id": END_OF_TEXT,
}


def split(name):
    """(training text, held-out text) of one file, cut at the line break before the last 5%.

    Held-out lines of some length that also stand in the training text are dropped."""
    text = (TEXT / f"{name}.txt").read_text(encoding="utf-8")
    cut = text.rindex("\n", 0, int(len(text) * (1 - HELD_OUT_SHARE))) + 1
    seen = set(text[:cut].splitlines(keepends=True))
    fresh = [line for line in text[cut:].splitlines(keepends=True) if len(line) <= COMMON_LINE or line not in seen]
    return text[:cut], "".join(fresh)


def cut_to_bytes(text, size):
    """The longest run of whole lines from the start of text within size UTF-8 bytes."""
    head = text.encode("utf-8")[:size].decode("utf-8", errors="ignore")
    return head if len(head) == len(text) else head[: head.rindex("\n") + 1]


def excerpts(train):
    """The calibration text: passages spread evenly over each source's training part, alternating."""
    size = CALIBRATION_BYTES // (CALIBRATION_PASSAGES * len(train))
    pieces = []
    for i in range(CALIBRATION_PASSAGES):
        for text in train.values():
            start = text.index("\n", len(text) * i // CALIBRATION_PASSAGES) + 1
            pieces.append(cut_to_bytes(text[start:], size))
    return "".join(pieces)


def held_out_sample(held):
    """The held-out text that is published: the shorter source whole, the longer one filling up."""
    first, second = (held[name] for name in FILES)
    return first + cut_to_bytes(second, HELD_OUT_BYTES - len(first.encode("utf-8")))


def train_tokenizer(texts):
    """Byte-level BPE with single digits, as SmolLM2's tokenizer splits; no BOS."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Whole lines: a pre-token never spans a line's end but for runs of line breaks.
    tokenizer.train_from_iterator((line for text in texts for line in text.splitlines(keepends=True)), trainer)
    return tokenizer


class Sampler:
    """Training windows: random plain windows, and ChatML documents padded with plain text."""

    def __init__(self, tokenizer, texts, seed):
        self.tokenizer = tokenizer
        self.random = random.Random(seed)
        self.ids = [torch.tensor(tokenizer.encode(text).ids) for text in texts]
        self.lines = [[line for line in text.splitlines(keepends=True) if line.strip()] for text in texts]
        self.weights = [len(ids) for ids in self.ids]
        self.tokens = sum(self.weights)

    def plain(self, length):
        """int64 [length]: a random window of a source chosen by its length."""
        ids = self.random.choices(self.ids, self.weights)[0]
        start = self.random.randrange(len(ids) - length + 1)
        return ids[start : start + length]

    def passage(self, lines, start, size):
        """Whole lines from `start` until `size` characters are reached, and the next line's index."""
        text = ""
        while start < len(lines) and len(text) < size:
            text += lines[start]
            start += 1
        return text.rstrip("\n"), start

    def chat(self, length):
        """int64 [length]: 'continue this text' documents, each ended by <|endoftext|>."""
        ids = []
        while len(ids) < length:
            lines = self.random.choices(self.lines, self.weights)[0]
            start = self.random.randrange(len(lines) - 40)
            passage, start = self.passage(lines, start, self.random.randrange(60, 250))
            answer, _ = self.passage(lines, start, self.random.randrange(60, 250))
            turns = [("user", f"Continue this text.\n\n{passage}"), ("assistant", answer)]
            if self.random.random() < 0.3:
                turns.insert(0, ("system", "You are a teller of old tales and plays."))
            document = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
            ids += self.tokenizer.encode(document + "<|endoftext|>").ids
        return torch.tensor(ids[:length])

    def batch(self, tokens):
        """int64 [tokens / length, length]; a quarter of the batches are long, to train the whole context."""
        length = CONTEXT if self.random.random() < 0.25 else WINDOW
        draw = lambda: self.chat(length) if self.random.random() < CHAT_SHARE else self.plain(length)
        return torch.stack([draw() for _ in range(tokens // length)])


def next_token_loss(model, ids, reduction="mean"):
    """Cross-entropy of ids [B, T] shifted by one."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction=reduction)


@torch.no_grad()
def held_out_loss(model, ids):
    """Mean loss over non-overlapping windows of 256 tokens, tail dropped, 255 losses a window."""
    model.eval()
    windows = ids[: len(ids) // WINDOW * WINDOW].view(-1, WINDOW)
    total = sum(next_token_loss(model, part, "sum").item() for part in windows.split(16))
    model.train()
    return total / (len(windows) * (WINDOW - 1))


def add_dropout(model):
    """Dropout after the embedding and on both residual branches; returns the hooks, to be removed."""
    hook = lambda module, _, output: F.dropout(output, DROPOUT, module.training)
    modules = [model.model.embed_tokens]
    for layer in model.model.layers:
        modules += [layer.self_attn.o_proj, layer.mlp.down_proj]
    return [module.register_forward_hook(hook) for module in modules]


def learning_rate(step, steps, peak, warmup=150):
    """Linear warm-up, then a cosine to a hundredth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def train(sampler, held_ids, args):
    model = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in CONFIG.items() if k != "torch_dtype"}))
    hooks = add_dropout(model)
    model.train()
    # No weight decay, and a narrow model: the demo needs weights that use their rank.
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    started, running = time.time(), 0.0
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr)
        with torch.autocast("cpu", torch.bfloat16):
            loss = next_token_loss(model, sampler.batch(args.batch_tokens))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        running = loss.item() if step == 0 else 0.98 * running + 0.02 * loss.item()
        if (step + 1) % args.report_every == 0 or step + 1 == args.steps:
            held = {name: round(held_out_loss(model, ids), 4) for name, ids in held_ids.items()}
            print(json.dumps({"step": step + 1, "train": round(running, 4), "heldOut": held, "seconds": round(time.time() - started)}), flush=True)
    for hook in hooks:
        hook.remove()
    return model.eval()


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tokenizer(tokenizer, directory):
    tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
    added = {
        str(i): {"content": text, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
        for i, text in enumerate(SPECIAL)
    }
    write_json(
        directory / "tokenizer_config.json",
        {
            "add_bos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": added,
            "bos_token": SPECIAL[END_OF_TEXT],
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": SPECIAL[IM_END],
            "model_max_length": CONTEXT,
            "pad_token": SPECIAL[END_OF_TEXT],
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": None,
        },
    )


def model_card(args, sampler, parameters, losses):
    seen = args.steps * args.batch_tokens
    rows = "\n".join(f"| {name} | {loss:.4f} | {math.exp(loss):.2f} |" for name, loss in losses.items())
    return f"""---
license: apache-2.0
language: en
pipeline_tag: text-generation
tags: [llama, tiny, test-model]
---

# tiny

A Llama of {parameters:,} parameters in bf16, small enough to live in a repository: the model of FLRC's
demo and tests. It writes old prose and blank verse that scans better than it means; use it to try the
tools, not to learn anything from.

- **Shape**: hidden 128, 4 heads, 2 key-value heads of 32, feed-forward 256, 6 layers, vocabulary 1536
  (byte-level BPE, single digits), tied embeddings, context 512, rope theta 10000.
- **Data**: *Grimm's Fairy Tales* in an English translation and the plays of Shakespeare
  (tinyshakespeare), both in the public domain; {sampler.tokens:,} training tokens. The last 5% of each file
  is held out from the tokenizer and from training, less what the training text repeats of it. About {CHAT_SHARE:.0%}
  of the training windows are passages of the same texts set in ChatML ("Continue this text."), so that the
  special tokens mean something.
- **Training**: `scripts/pytorch/train_tiny.py`, seed {args.seed}, {args.steps:,} steps of {args.batch_tokens} tokens ({seen / sampler.tokens:.1f}
  passes), AdamW (peak {args.lr:g}, cosine, no weight decay), bf16 products, dropout {DROPOUT}, windows of 256 and, for
  a quarter of the batches, 512 tokens. Last step's weights; the held-out text chose nothing.
- **Licence**: Apache-2.0.

Held-out loss of these bf16 weights in fp32 arithmetic, non-overlapping windows of 256 tokens:

| text | loss (nats/token) | perplexity |
| --- | --- | --- |
{rows}

`heldout.txt` is the start of the held-out text ({FILES[0]} whole, then {FILES[1]}); `calibration.txt` is an excerpt
of the training text from both sources. The chat template is ChatML without a default system message; no
BOS is added.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPO / "models" / "tiny")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report-every", type=int, default=250)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    train_text, held_text = {}, {}
    for name in FILES:
        train_text[name], held_text[name] = split(name)
    tokenizer = train_tokenizer(train_text.values())
    sampler = Sampler(tokenizer, list(train_text.values()), args.seed)
    encode = lambda text: torch.tensor(tokenizer.encode(text).ids)
    held_ids = {name: encode(text) for name, text in held_text.items()}
    model = train(sampler, held_ids, args)

    model.to(torch.bfloat16)
    weights = {n: t.detach().clone() for n, t in model.state_dict().items() if n != "lm_head.weight"}
    model.float()
    published = held_out_sample(held_text)
    losses = {f"{name}, all held out": held_out_loss(model, ids) for name, ids in held_ids.items()}
    losses["heldout.txt"] = held_out_loss(model, encode(published))

    args.out.mkdir(parents=True, exist_ok=True)
    save_file(weights, args.out / "model.safetensors", metadata={"format": "pt"})
    (args.out / "model.safetensors").chmod(0o644)  # save_file makes it readable by the owner alone
    write_json(args.out / "config.json", CONFIG)
    write_json(args.out / "generation_config.json", GENERATION_CONFIG)
    write_tokenizer(tokenizer, args.out)
    (args.out / "heldout.txt").write_text(published, encoding="utf-8")
    (args.out / "calibration.txt").write_text(excerpts(train_text), encoding="utf-8")
    parameters = sum(t.numel() for t in weights.values())
    (args.out / "README.md").write_text(model_card(args, sampler, parameters, losses), encoding="utf-8")
    print(json.dumps({name: round(loss, 4) for name, loss in losses.items()}))


if __name__ == "__main__":
    main()
