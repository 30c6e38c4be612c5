"""Write test/fixtures/pytorch: what PyTorch, transformers and gguf say about small cases.

    python scripts/pytorch/make_fixtures.py                 everything
    python scripts/pytorch/make_fixtures.py models rope     some of: models recover rope dequant published smollm2 tiny spm

`smollm2` and `spm` read ../shared/models; `tiny` reads models/tiny, so run it after train_tiny.py.
"""

import argparse
from pathlib import Path

import torch

import format_fixtures
import model_fixtures
import published_tokenizers
import recover_fixture
import tokenizer_fixtures

REPO = Path(__file__).resolve().parents[2]
SHARED = REPO.parent / "shared" / "models"
OUT = REPO / "test" / "fixtures" / "pytorch"

PARTS = {
    "models": lambda: model_fixtures.make_all(OUT),
    "recover": lambda: recover_fixture.make(OUT),  # after models
    "rope": lambda: format_fixtures.make_rope(OUT / "rope.json"),
    "dequant": lambda: format_fixtures.make_dequant(OUT / "dequant.json"),
    "published": lambda: published_tokenizers.make_published(OUT / "published-tokens.json"),
    "smollm2": lambda: tokenizer_fixtures.make_smollm2(OUT / "smollm2-tokens.json", SHARED / "smollm2-135m-instruct"),
    "tiny": lambda: tokenizer_fixtures.make_tiny(OUT / "tiny-tokens.json", REPO / "models" / "tiny"),
    "spm": lambda: tokenizer_fixtures.make_spm(OUT / "spm-tokens.json", SHARED / "stories260K" / "tokenizer.bin"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of: {' '.join(PARTS)}")
    parts = parser.parse_args().parts or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown: {' '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    for part in parts:
        PARTS[part]()


if __name__ == "__main__":
    main()
