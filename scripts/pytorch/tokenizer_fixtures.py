"""Token ids, rendered chats and the embedded model's own figures."""

import json
import math
import struct

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

STRINGS = [
    "",
    " ",
    "Hello, world!",
    " Hello",
    "Once upon a time",
    "The King ’ s Son picked it up , and it was small and dainty .",
    "two  spaces   three    four",
    "trailing spaces   ",
    "\n",
    "one\ntwo\n\nthree\n\n\nfour",
    "windows\r\nline\r\n",
    "\ttab\t\ttabs \t mixed\n\t",
    "In 1984, 12345 and 3.14159 or 1,000,000",
    "x  42   7\n 8",
    "it's we're I'll they've I'm he'd don't CAN'T 'tis",
    "naïve café über Ångström",
    "Привет, мир! Как дела?",
    "日本語のテキストと中文。한국어",
    "مرحبا بالعالم",
    "👍🏽 family: 👨‍👩‍👧‍👦 flag: 🇫🇷",
    "e\u0301 versus \u00e9, \ufb01 ligature, half ½ and ²",
    "non-breaking\u00a0space, ideographic\u3000space, zero\u200bwidth",
    "def f(x):\n    return x ** 2  # square\n\nprint(f(3))",
    '{"key": [1, 2.5, -3e10], "nested": {"a": null}}',
    "https://example.com/a?b=c&d=%20#frag",
    "ALLCAPS camelCase snake_case kebab-case",
    "!!! ... ??? --- *** $$$",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "a<|im_end|>b <|endoftext|> c",
    "<|im_start <|im_end| |> <|nothing|>",
    "<repo_name>x<file_sep>y <gh_stars>1<empty_output>",
]

CHATS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [
        {"role": "system", "content": "You answer briefly."},
        {"role": "user", "content": "Summarise:\n\nA: hi\nB: hello"},
    ],
    [
        {"role": "user", "content": "  leading and trailing  "},
        {"role": "assistant", "content": "Yes — 42."},
        {"role": "user", "content": "And then?"},
    ],
]


def encode_all(tokenizer, encode):
    """Cases {text, ids} of STRINGS and {messages, text, ids} of CHATS, by encode(text) -> ids."""
    chats = []
    for messages in CHATS:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        chats.append({"messages": messages, "text": text, "ids": encode(text)})
    return {"strings": [{"text": text, "ids": encode(text)} for text in STRINGS], "chats": chats}


def write(path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def make_smollm2(path, directory):
    """SmolLM2's own tokenizer, rebuilt from the GGUF file.

    transformers reads vocabulary, merges, control tokens and template from the file but ignores
    tokenizer.ggml.pre = "smollm": single digits are split off first, then GPT-2's pattern splits the
    rest. That is set right here, as llama.cpp and SmolLM2's published tokenizer.json have it.
    """
    file = next(directory.glob("*.gguf")).name
    loaded = AutoTokenizer.from_pretrained(directory, gguf_file=file)
    published = Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    published.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    encode = lambda text: published.encode(text, add_special_tokens=False).ids
    cases = encode_all(loaded, encode)
    differing = [case["text"] for case in cases["strings"] if loaded.encode(case["text"]) != case["ids"]]
    write(path, cases)
    print(f"{path.name}: {len(cases['strings'])} strings; transformers' GGUF tokenizer differs on {differing}")


@torch.no_grad()
def perplexity(model, ids, window):
    """Non-overlapping windows, tail dropped, window - 1 losses each: (perplexity, windows)."""
    windows = ids[: len(ids) // window * window].view(-1, window)
    total = 0.0
    for part in windows:
        logits = model(part[None], use_cache=False).logits[0, :-1]
        total += torch.nn.functional.cross_entropy(logits, part[1:], reduction="sum").item()
    return math.exp(total / (len(windows) * (window - 1))), len(windows)


@torch.no_grad()
def greedy(model, ids, count):
    """`count` greedy token ids after ids, without a stop token, and each winner's lead in logits."""
    chosen, leads = [], []
    for _ in range(count):
        best = model(torch.tensor([ids + chosen]), use_cache=False).logits[0, -1].topk(2)
        chosen.append(best.indices[0].item())
        leads.append((best.values[0] - best.values[1]).item())
    return chosen, leads


def make_tiny(path, directory):
    """models/tiny: its tokenizer, and its perplexity and greedy text (bf16 weights, fp32 arithmetic)."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    encode = lambda text: tokenizer.encode(text, add_special_tokens=True)
    cases = encode_all(tokenizer, encode)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16, attn_implementation="eager").float().eval()
    held_out = torch.tensor(encode((directory / "heldout.txt").read_text(encoding="utf-8")))
    value, windows = perplexity(model, held_out, 256)
    prompt = "Once upon a time"
    ids, leads = greedy(model, encode(prompt), 24)
    cases["perplexity"] = {"file": "heldout.txt", "tokens": len(held_out), "seqLen": 256, "windows": windows, "perplexity": value}
    cases["greedy"] = {"prompt": prompt, "promptIds": encode(prompt), "ids": ids, "leads": [round(x, 4) for x in leads], "text": tokenizer.decode(ids)}
    write(path, cases)
    print(f"{path.name}: perplexity {value:.4f} over {windows} windows; {prompt + cases['greedy']['text']!r}, least lead {min(leads):.4f}")


SPM_STRINGS = [
    "",
    " ",
    "Once upon a time",
    "Once upon a time, there was a little girl named Lily.",
    " leading space",
    "two  spaces",
    "line\nbreak\n",
    "Tim's dog said \"woof!\"",
    "12345 and 3.14",
    "naïve café",
    "日本語",
    "👍 emoji",
    "ZZZ@@@###",
]


def read_llama2c(path):
    """llama2.c's tokenizer.bin: int32 longest length, then per token float32 score, int32 length, bytes."""
    data, offset, pieces, scores = path.read_bytes(), 4, [], []
    while offset < len(data):
        score, length = struct.unpack_from("<fi", data, offset)
        offset += 8
        pieces.append(data[offset : offset + length])
        scores.append(score)
        offset += length
    return pieces, scores


def spm_encode(text, ids_of, scores, pieces):
    """llama2.c's encode() without BOS and EOS: dummy space, characters or bytes, best merge first.

    A byte b that is no piece is id b + 3 (after <unk>, <s>, </s>); of equal scores the leftmost merges.
    """
    ids = [ids_of[b" "]] if text else []
    for character in text:
        raw = character.encode("utf-8")
        ids += [ids_of[raw]] if raw in ids_of else [byte + 3 for byte in raw]
    while True:
        pairs = [ids_of.get(pieces[a] + pieces[b]) for a, b in zip(ids, ids[1:])]
        places = [i for i, merged in enumerate(pairs) if merged is not None]
        if not places:
            return ids
        best = max(places, key=lambda i: (scores[pairs[i]], -i))
        ids[best : best + 2] = [pairs[best]]


def make_spm(path, file):
    pieces, scores = read_llama2c(file)
    ids_of = {piece: i for i, piece in enumerate(pieces)}
    write(path, {"vocabularySize": len(pieces), "strings": [{"text": t, "ids": spm_encode(t, ids_of, scores, pieces)} for t in SPM_STRINGS]})
    print(f"{path.name}: {len(pieces)} pieces, {len(SPM_STRINGS)} strings")
