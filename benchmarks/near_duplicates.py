"""Near-duplicates: time and memory up to a million rows, recall against all pairs, and datasketch's MinHashLSH.

    python benchmarks/near_duplicates.py [--shared ../shared] [--rows 1000000] [--near 4/5]

The rows are real ones (Alpaca, Code Alpaca, GSM8K, Dolly, LIMA) and rows made of them up to the number asked: in
nineteen of twenty every word is replaced with a chance of 3/10, in the twentieth one word is. Times of many rows are
those of a process of its own. datasketch is optional: what is not installed is not compared.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from cuvee.data import duplicates, examples, exclusions, formats, shingles
from cuvee.data.texts import text_of
from cuvee.values import Example, Message

FILES = ("chat/alpaca_52k", "code/code_alpaca_20k", "math/gsm8k_train", "chat/dolly_3k", "chat/lima")
SUBSET = 5000


def real(shared: Path) -> Iterator[Example]:
    """Yield the usable rows of the real files."""
    for name in FILES:
        with gzip.open(shared / "data" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                raw = json.loads(line)
                try:
                    yield formats.example(raw, formats.detect([raw]), path=name, line=number)
                except ValueError:
                    continue


def rows(shared: Path, count: int) -> Iterator[Example]:
    """Yield real rows, then changed ones."""
    given = list(real(shared))[:count]
    yield from given
    rng = random.Random(0)
    vocabulary = [word for example in given[::20] for word in example.messages[-1].content.split()]
    for number in range(count - len(given)):
        example = rng.choice(given)
        yield Example(tuple(_changed(message, number % 20 == 0, vocabulary, rng) for message in example.messages))


def _changed(message: Message, lightly: bool, vocabulary: list[str], rng: random.Random) -> Message:
    words = message.content.split()
    if lightly and words:
        words[rng.randrange(len(words))] = rng.choice(vocabulary)
    elif not lightly:
        words = [rng.choice(vocabulary) if rng.random() < 0.3 else word for word in words]
    return Message(message.role, " ".join(words) or message.content)


def measured(load: Path, near: str) -> dict[str, Any]:
    """Return the summary, CPU seconds and peak memory in MiB of one run in a process of its own."""
    code = (
        "import json, resource, sys, tempfile; from pathlib import Path; from cuvee.data import duplicates;"
        "folder = tempfile.TemporaryDirectory(); start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "found = duplicates.write(Path(folder.name), [Path(sys.argv[1])], {'near': sys.argv[2]});"
        "used = resource.getrusage(resource.RUSAGE_SELF);"
        "print(json.dumps(found | {'cpu': used.ru_utime + used.ru_stime, 'mib': used.ru_maxrss / 1024}))"
    )
    command = [sys.executable, "-c", code, str(load), near]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def reference(load: Path, near: Fraction) -> set[int]:
    """Return the rows that are dropped, from sets of words and the shared shingles of all pairs."""
    bags = []
    for row, (example, occurrence) in enumerate(examples.read(load)):
        words = shingles.words(shingles.folded(text_of(example, "conversation"))).split()
        width = min(duplicates.LENGTH, len(words))
        grams = {tuple(words[at : at + width]) for at in range(len(words) - width + 1)} if words else set()
        bags.append((example.key, occurrence, row, grams))
    holders: dict[Any, list[int]] = {}
    sizes: dict[int, int] = {}
    dropped = set()
    for _, _, row, grams in sorted(bags, key=lambda bag: bag[:2]):
        both = Counter(other for gram in grams for other in holders.get(gram, ()))
        if any(count >= near * (len(grams) + sizes[other] - count) for other, count in both.items()):
            dropped.add(row)
            continue
        sizes[row] = len(grams)
        for gram in grams:
            holders.setdefault(gram, []).append(row)
    return dropped


def datasketch_rows(load: Path, near: float) -> tuple[set[int], float] | None:
    """Return the rows that MinHashLSH drops (verified, so only its misses differ) and its CPU seconds."""
    try:
        from datasketch import MinHash, MinHashLSH  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    start = time.process_time()
    index, dropped = MinHashLSH(threshold=near, num_perm=128), set()
    bags: dict[int, set[bytes]] = {}
    for _, _, row, text in sorted(
        (example.key, occurrence, row, text_of(example, "conversation"))
        for row, (example, occurrence) in enumerate(examples.read(load))
    ):
        words = shingles.words(shingles.folded(text)).split()
        width = min(duplicates.LENGTH, len(words))
        grams = {b" ".join(words[at : at + width]) for at in range(len(words) - width + 1)}
        sketch = MinHash(num_perm=128, seed=1)
        sketch.update_batch(list(grams))
        found = [bags[other] for other in index.query(sketch)]
        if any(len(grams & other) >= near * len(grams | other) - 1e-9 for other in found):
            dropped.add(row)
            continue
        bags[row] = grams
        index.insert(row, sketch)
    return dropped, time.process_time() - start


def compare(shared: Path, near: str, folder: Path) -> None:
    """Print recall and speed on a subset that holds many near-duplicates."""
    rng = random.Random(1)
    given = list(rows(shared, 200_000))
    chosen = rng.sample(given, SUBSET)
    for number in range(0, SUBSET, 10):
        changed = [_changed(message, True, ["other", "word"], rng) for message in given[number].messages]
        chosen[number : number + 2] = [given[number], Example(tuple(changed))]
    examples.write(folder, chosen, Fraction(0))
    out = folder / "out"
    out.mkdir()
    start = time.process_time()
    duplicates.write(out, [folder], {"near": near})
    mine = time.process_time() - start
    found = {line.row for line in exclusions.read(out)}
    expected = reference(folder, Fraction(near))
    print(
        f"subset of {len(chosen):,} rows: {len(expected):,} dropped by all pairs, {len(found):,} here, "
        f"missed {len(expected - found)}, too many {len(found - expected)}, {mine:.2f} CPU s"
    )
    peer = datasketch_rows(folder, float(Fraction(near)))
    if peer is None:
        print("datasketch is not installed")
        return
    print(
        f"datasketch MinHashLSH, 128 permutations, candidates verified: {len(peer[0]):,} dropped, "
        f"missed {len(expected - peer[0])}, {peer[1]:.2f} CPU s, {peer[1] / mine:.1f} times as long"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--near", default="4/5")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        small = Path(name) / "small"
        small.mkdir()
        compare(given.shared, given.near, small)
        for count in sorted({min(100_000, given.rows), given.rows}):
            load = Path(name) / str(count)
            load.mkdir()
            summary = examples.write(load, rows(given.shared, count), Fraction(0))
            found = measured(load, given.near)
            print(
                f"{count:,} rows, {summary['bytes'] / 2**20:,.0f} MiB of text: {found['seconds'] / 60:.2f} min, "
                f"{found['cpu']:.0f} CPU s, peak {found['mib']:,.0f} MiB; {found['equal']:,} equal, "
                f"{found['near']:,} near",
                flush=True,
            )
    print(f"largest process: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:,.0f} MiB")


if __name__ == "__main__":
    main()
