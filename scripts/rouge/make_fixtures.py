"""Writes what lib/rouge.ts is tested against: Google's rouge_score with NLTK's stemmer on pairs of sentences
and on a long list of words.

    python3 -m venv .venv-rouge && . .venv-rouge/bin/activate
    pip install -r scripts/rouge/requirements.txt
    python scripts/rouge/make_fixtures.py

Run from the repository root. The sentences are those of models/tiny (public domain), cut and mixed by a
fixed seed, and some invented ones; the words are those of the same text with endings of all kinds.

Writes test/fixtures/rouge/pairs.json ([{reference, text, rouge1, rouge2, rougeL}]) and
test/fixtures/rouge/stems.json ({word: stem}).
"""

import json
import random
import re
from pathlib import Path

from nltk.stem import porter
from rouge_score import rouge_scorer

SEED = 1
OUT = Path("test/fixtures/rouge")
INVENTED = [
    ("", ""),
    ("", "something"),
    ("something", ""),
    ("... !?", "--- ,"),
    ("a", "a"),
    ("one two", "two one"),
    ("The cat sat on the mat.", "the CAT sat on a mat"),
    ("#Person1# tells #Person2# about the flying lessons.", "Person1 told person2 of a flight lesson"),
    ("She's dying to see the skies; they're lying and tying knots.", "she s die sky lie tie knot"),
    ("naïve café, Straße, élan", "naive cafe strasse elan"),
    ("In 1999 it cost $1,250.50 (about 3/4 of a year's pay).", "it cost 1 250 50 dollars in 1999"),
    ("ISTANBUL İstanbul ıstanbul", "istanbul"),
    ("Temperature 300K and 300\u212a", "temperature 300k"),
    ("yyyy yyyyy say sayyy toy syzygy", "yyyy says saying toys syzygies"),
    ("to be or not to be to be or not", "or not to be to be or to be"),
    ("one\ntwo\tthree\u00a0four\u2028five", "five four three two one"),
    ("x" * 300, "x" * 300),
]
ENDINGS = (
    "s es ies sses ied eed ed ing y ational tional enci anci izer bli abli alli entli eli ousli ization ation ator "
    "alism iveness fulness ousness aliti iviti biliti fulli logi ally fully logy icate ative alize iciti ical ful "
    "ness al ance ence er ic able ible ant ement ment ent ion tion sion ou ism ate iti ous ive ize e ll le ated "
    "bling ized hopping fizzed falling filing failing yed ying 1 2s"
).split()


def sentences() -> list[str]:
    text = "\n".join(Path("models/tiny", name).read_text() for name in ("calibration.txt", "heldout.txt"))
    found = [part.strip() for part in re.split(r"(?<=[.!?])\s+", text)]
    return [part for part in found if 20 < len(part) < 240]


def garbled(rng: random.Random, text: str) -> str:
    """The same words with some lost, doubled, exchanged or given another ending."""
    words = text.split()
    out = []
    for word in words:
        pick = rng.random()
        if pick < 0.2:
            continue
        if pick < 0.3:
            word = re.sub(r"\W+$", "", word) + rng.choice(["s", "ed", "ing", "ly", "ness"])
        if pick > 0.95:
            out.append(word)
        if pick > 0.9 and out:
            out[-1], word = word, out[-1]
        out.append(word)
    return " ".join(out)


def pairs(rng: random.Random, pool: list[str]) -> list[tuple[str, str]]:
    made = list(INVENTED)
    for _ in range(200):
        sentence = rng.choice(pool)
        made.append((sentence, garbled(rng, sentence)))
    for _ in range(100):
        made.append((rng.choice(pool), rng.choice(pool)))
    for _ in range(50):
        chosen = rng.sample(pool, 5)
        made.append((" ".join(chosen[:3]), " ".join(garbled(rng, part) for part in rng.sample(chosen, 3))))
    return made


def words(rng: random.Random, pool: list[str]) -> list[str]:
    plain = sorted({word for text in pool for word in re.findall(r"[a-z0-9]+", text.lower())})
    letters = "aeiouybcdlmnstwxz"
    random_stems = ["".join(rng.choice(letters) for _ in range(rng.randrange(0, 6))) for _ in range(60)]
    stems = rng.sample(plain, 25) + random_stems
    ended = [stem + ending for stem in stems for ending in ENDINGS]
    known = [word for values in porter.PorterStemmer().pool for word in (values, values + "s")]
    return sorted({word for word in [*rng.sample(plain, 1500), *ended, *known] if word})


def main() -> None:
    rng = random.Random(SEED)
    pool = sentences()
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    scored = [
        {"reference": reference, "text": text}
        | {name: score.fmeasure for name, score in scorer.score(reference, text).items()}
        for reference, text in pairs(rng, pool)
    ]
    stemmer = porter.PorterStemmer()
    OUT.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in scored)
    (OUT / "pairs.json").write_text(f"[\n{lines}\n]\n")
    stems = {word: stemmer.stem(word) for word in words(rng, pool)}
    (OUT / "stems.json").write_text(json.dumps(stems, ensure_ascii=False, indent=0) + "\n")
    print(f"{len(scored)} pairs, {len(stems)} words")


if __name__ == "__main__":
    main()
