"""Small vocabularies in the tokenizer.json layouts of published models, and the ids and texts that the Rust library gives."""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from tokenizer_fixtures import STRINGS

MARK = "\u2581"
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"


def words(digits):
    letters = r"[^\r\n\p{L}\p{N}]?\p{L}+"
    return rf"{CONTRACTIONS}|{letters}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{REST}"


def cased(suffix, digits):
    lead = r"[^\r\n\p{L}\p{N}]?"
    letters = f"{lead}{UPPER}*{LOWER}+{suffix}|{lead}{UPPER}+{LOWER}*{suffix}"
    return rf"{letters}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{REST}"


def split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


def byte_level(use_regex=False):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def first(token):
    item = [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    return {"type": "TemplateProcessing", "single": item, "pair": item, "special_tokens": {token: {"id": token, "ids": [None], "tokens": [token]}}}


def added(content, special=True, **strips):
    return {"content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special, **strips}


DIGITS = {"type": "Digits", "individual_digits": True}
TO_MARKS = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
PREFIXED = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": MARK}, TO_MARKS]}
FROM_MARKS = [{"type": "Replace", "pattern": {"String": MARK}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}

BYTE_FAMILIES = {
    "llama3": {
        "pre_tokenizer": sequence(split(words(r"\p{N}{1,3}")), byte_level()),
        "post_processor": {"type": "Sequence", "processors": [byte_level(True), first("<|begin_of_text|>")]},
        "ignore_merges": True,
        "added": [added("<|begin_of_text|>"), added("<|eot_id|>")],
    },
    "qwen3": {
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": sequence(split(words(r"\p{N}")), byte_level()),
        "post_processor": byte_level(),
        "added": [added("<|im_start|>"), added("<|im_end|>"), added("<think>", special=False)],
    },
    "phi4": {
        "pre_tokenizer": sequence(split(words(r"\p{N}{1,3}"), "Removed", True), byte_level()),
        "added": [added("<|im_start|>", lstrip=True, rstrip=True), added("<|im_end|>", lstrip=True, rstrip=True)],
    },
    "phi4-mini": {
        "pre_tokenizer": sequence(split(cased(f"{CONTRACTIONS}?", r"\p{N}{1,3}"), "Removed", True), byte_level()),
        "added": [added("<|end|>", rstrip=True), added("<|user|>", rstrip=True)],
    },
    "tekken": {
        "pre_tokenizer": sequence(split(cased("", r"\p{N}")), byte_level()),
        "post_processor": first("<s>"),
        "ignore_merges": True,
        "added": [added("<s>"), added("[INST]"), added("[/INST]")],
    },
    "granite": {
        "pre_tokenizer": sequence(DIGITS, byte_level(True)),
        "added": [added("<|end_of_text|>"), added("<|start_of_role|>"), added("<fim_prefix>")],
    },
    "deepseek-coder": {
        "pre_tokenizer": sequence(
            split(r"[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split("[一-龥ࠀ-一가-퟿]+"), DIGITS, byte_level()
        ),
        "post_processor": first("<｜begin▁of▁sentence｜>"),
        "added": [added("<｜begin▁of▁sentence｜>", normalized=True), added("<|EOT|>", normalized=True)],
    },
}

MARK_FAMILIES = {
    "llama2": {
        "normalizer": PREFIXED,
        "post_processor": first("<s>"),
        "decoder": {"type": "Sequence", "decoders": [*FROM_MARKS, STRIP]},
        "added": [added("<s>"), added("</s>")],
    },
    "phi3": {
        "normalizer": PREFIXED,
        "decoder": {"type": "Sequence", "decoders": [*FROM_MARKS, STRIP]},
        "added": [added("<s>"), added("<|user|>", rstrip=True), added("<|end|>", rstrip=True)],
    },
    "mistral-v3": {
        "pre_tokenizer": {"type": "Metaspace", "replacement": MARK, "prepend_scheme": "first", "split": False},
        "post_processor": first("<s>"),
        "decoder": {"type": "Sequence", "decoders": [*FROM_MARKS, STRIP]},
        "added": [added("<s>"), added("[INST]"), added("[/INST]")],
    },
    "gemma3": {
        "normalizer": TO_MARKS,
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
        "post_processor": first("<bos>"),
        "decoder": {"type": "Sequence", "decoders": FROM_MARKS},
        "added": [added("<bos>"), added("<start_of_turn>"), added("<end_of_turn>"), added("\n\n", special=False), added(MARK * 2, special=False)],
    },
}


def trained(normalizer, pre_tokenizer, initial, special):
    """Vocabulary and merges of a byte-pair encoding of the strings."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=initial, special_tokens=special, min_frequency=1, show_progress=False
    )
    tokenizer.train_from_iterator(STRINGS * 2, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return {"vocab": model["vocab"], "merges": model["merges"]}


def family(layout, base, byte_fallback):
    """tokenizer.json of a layout, added tokens behind the vocabulary unless it has them."""
    ids = dict(base["vocab"])
    tokens = [{"id": ids.setdefault(token["content"], len(ids)), **token} for token in layout["added"]]
    text = json.dumps(layout.get("post_processor"))
    post = json.loads(text)
    for part in [post, *(post or {}).get("processors", [])]:
        for name, special in (part or {}).get("special_tokens", {}).items():
            special["ids"] = [ids[name]]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": tokens,
        "normalizer": layout.get("normalizer"),
        "pre_tokenizer": layout.get("pre_tokenizer"),
        "post_processor": post,
        "decoder": layout.get("decoder", {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>" if byte_fallback else None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": byte_fallback,
            "byte_fallback": byte_fallback,
            "ignore_merges": layout.get("ignore_merges", False),
        },
    }


def make_published(path: Path):
    """{vocabularies: {bytes, marks}, families: [{name, vocabulary, tokenizer, strings: [{text, ids, decoded}]}]}; a family's model takes
    the vocabulary and merges that it names."""
    special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabularies = {
        "bytes": trained(None, pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.ByteLevel.alphabet(), []),
        "marks": trained(normalizers.Replace(" ", MARK), pre_tokenizers.Split(MARK, "merged_with_next"), [], special),
    }
    families = []
    for vocabulary, layouts in [("bytes", BYTE_FAMILIES), ("marks", MARK_FAMILIES)]:
        for name, layout in layouts.items():
            own = family(layout, vocabularies[vocabulary], vocabulary == "marks")
            whole = {**own, "model": {**own["model"], **vocabularies[vocabulary]}}
            tokenizer = Tokenizer.from_str(json.dumps(whole))
            tokens = [token["content"] for token in own["added_tokens"]]
            turns = ["".join(f"{token}\n Hi  there {token}" for token in tokens), "".join(tokens), f"a {tokens[-1]} b\n\n\n c"]
            encoded = [(text, tokenizer.encode(text).ids) for text in [*STRINGS, *turns]]
            decode = lambda ids: tokenizer.decode(ids, skip_special_tokens=False)
            strings = [{"text": text, "ids": ids, "decoded": decode(ids)} for text, ids in encoded]
            families.append({"name": name, "vocabulary": vocabulary, "tokenizer": own, "strings": strings})
    compact = lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    shared = f'"vocabularies":{compact(vocabularies)}'
    listed = ",\n".join(map(compact, families))
    path.write_text(f'{{{shared},\n"families":[\n{listed}\n]}}\n', encoding="utf-8")
    print(f"{path.name}: {', '.join(item['name'] for item in families)}; {len(STRINGS) + 3} strings each")
