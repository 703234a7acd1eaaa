"""Scoring speed: response losses by cuvee, by lm-evaluation-harness and by a loop of one row at a time, in one run.

    PYTHONPATH=src python benchmarks/score_speed.py --vocabulary 4096 32000 --rounds 2 --lm-eval-python VENV/bin/python

Each round runs every implementation once, one after another, on the same random LLaMA and the same rows (chat-like
lengths, half of each row is the answer), float32, one thread. What is counted is tokens over processor seconds of the
scoring alone, the model loaded before. Every implementation's summed losses must equal the loop's to 1e-4, row by
row.

The loop is how research code scores: stock model, one row a forward pass, logits of the whole row.
lm-evaluation-harness runs in its own process and environment and gets the same token ids.

    PYTHONPATH=src python benchmarks/score_speed.py --select 10000000

chooses 6 % of so many scored rows, writes the table, reads it back, and prints seconds and peak memory.

    PYTHONPATH=src python benchmarks/score_speed.py --answers 4 --vocabulary 32000

scores prompts of 150 tokens with so many answers of 40 to 80 each, with the prompt computed once and with each answer.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

Timed = tuple[float, list[float]]

LM_EVAL = """
import json, sys, time, torch
torch.set_num_threads(1)
from lm_eval.models.huggingface import HFLM
folder, rows_file, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
from transformers import AutoModelForCausalLM, AutoTokenizer
class Stub:
    pad_token_id = 0; eos_token_id = 2; bos_token_id = 1; vocab_size = 1
    pad_token = eos_token = '</s>'; name_or_path = 'stub'; chat_template = None
    def __len__(self): return self.vocab_size
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
Stub.vocab_size = model.config.vocab_size
try:
    lm = HFLM(pretrained=model, tokenizer=Stub(), batch_size=batch, device='cpu', max_length=4096)
except Exception:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    words = Tokenizer(models.WordLevel({'</s>': 2, '<s>': 1, '<pad>': 0}, '</s>'))
    names = dict(eos_token='</s>', bos_token='<s>', pad_token='<pad>')
    plain = PreTrainedTokenizerFast(tokenizer_object=words, **names)
    lm = HFLM(pretrained=model, tokenizer=plain, batch_size=batch, device='cpu', max_length=4096)
rows = json.load(open(rows_file))
requests = [((str(i), str(i)), row['ids'][:row['start']], row['ids'][row['start']:]) for i, row in enumerate(rows)]
start = time.process_time()
found = lm._loglikelihood_tokens(requests, disable_tqdm=True)
print(json.dumps({'seconds': time.process_time() - start, 'nll': [-float(one[0]) for one in found]}))
"""


def cuvee(folder: Path, rows: Sequence[Any]) -> Timed:
    """Score by cuvee's engine."""
    from cuvee.engine import scoring
    from cuvee.runtime import Runtime

    runtime = Runtime(threads=1, device="cpu")
    scoring.score(folder, rows[:1], runtime, lambda facts: None)  # loads the model
    start = time.process_time()
    found = scoring.score(folder, rows, runtime, lambda facts: None)
    return time.process_time() - start, [one.nll for one in found]


def one_by_one(folder: Path, rows: Sequence[Any]) -> Timed:
    """Score a row at a time by the stock model."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    found = []
    start = time.process_time()
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([list(row.ids)])
            odds = torch.log_softmax(model(ids).logits[0, :-1], -1)
            right = odds.gather(1, ids[0, 1:, None])[:, 0]
            found.append(-float(right[row.spans[0][0] - 1 :].sum()))
    return time.process_time() - start, found


def lm_eval(python: str, batch: int) -> Callable[[Path, Sequence[Any]], Timed]:
    """Return scoring by lm-evaluation-harness at a batch size."""

    def score(folder: Path, rows: Sequence[Any]) -> Timed:
        file = folder / "rows.json"
        file.write_text(
            json.dumps([{"ids": list(row.ids), "start": row.spans[0][0]} for row in rows]), encoding="utf-8"
        )
        asked = [python, "-c", LM_EVAL, str(folder), str(file), str(batch)]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        told = json.loads(done.stdout.strip().splitlines()[-1])
        return float(told["seconds"]), list(told["nll"])

    return score


def compare(vocabulary: int, options: argparse.Namespace) -> None:
    """Print tokens a processor second of each way and the ratios to cuvee's."""
    from train_speed import make_model, make_rows

    ways: dict[str, Callable[[Path, Sequence[Any]], Timed]] = {"cuvee": cuvee, "one row at a time": one_by_one}
    if options.lm_eval_python:
        ways |= {f"lm-eval, batch {n}": lm_eval(options.lm_eval_python, n) for n in (1, 8)}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        size = make_model(folder, vocabulary)
        rows = make_rows(options.rows, vocabulary, 1024, 0)
        tokens = sum(len(row.ids) for row in rows)
        speeds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            found = {name: way(folder, rows) for name, way in ways.items()}
            right = np.array(found["one row at a time"][1])
            for name, (seconds, nll) in found.items():
                far = float(np.abs(np.array(nll) / right - 1).max())
                assert far < 1e-4, f"{name}: a loss differs by {far:.1e}"
                speeds[name].append(tokens / seconds)
    print(f"\nvocabulary {vocabulary}, {size / 1e6:.1f} M parameters, {len(rows)} rows, {tokens:,} tokens, 1 thread")
    ours = statistics.median(speeds["cuvee"])
    for name, each in speeds.items():
        shown = " / ".join(f"{speed:,.0f}" for speed in each)
        print(f"  {name:20} {shown:>24} tokens a CPU s   cuvee is {ours / statistics.median(each):.2f} times as fast")


def shared_prompts(vocabulary: int, options: argparse.Namespace) -> None:
    """Print tokens a processor second where a prompt is computed once, and where it is with each answer."""
    from cuvee.engine import prompts
    from cuvee.protocols import TokenRow
    from train_speed import make_model

    draw = np.random.default_rng(0)
    rows = []
    for _ in range(max(1, options.rows // options.answers)):
        prompt = draw.integers(3, vocabulary, 150).tolist()
        for size in draw.integers(40, 80, options.answers):
            answer = draw.integers(3, vocabulary, size).tolist()
            rows.append(TokenRow([*prompt, *answer], [(150, 150 + len(answer))]))
    tokens, worth = sum(len(row.ids) for row in rows), prompts.WORTH
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        make_model(folder, vocabulary)
        for _ in range(options.rounds):
            found = {}
            for name, least in (("once", worth), ("with each answer", float("inf"))):
                prompts.WORTH = least
                seconds, nll = cuvee(folder, rows)
                found[name] = tokens / seconds, np.array(nll)
            (once, one), (each, other) = found.values()
            assert np.abs(one / other - 1).max() < 1e-4
            print(f"prompt once {once:,.0f} tokens a CPU s, with each answer {each:,.0f}: {once / each:.2f} times")


def select(number: int) -> None:
    """Choose among so many scored rows, write the table and read back what is left out."""
    from cuvee.data import selection
    from cuvee.protocols import Candidates, Judged

    draw = np.random.default_rng(0)
    rows = Candidates(
        np.zeros(number, np.int16),
        np.arange(number, dtype=np.int64),
        draw.integers(0, 256, (number, 16), np.uint8),
        np.zeros(number, np.int32),
        np.full(number, 300, np.int32),
        np.full(number, 100, np.int32),
    )
    judged = Judged(draw.normal(size=number).round(6))  # some ties
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as place:
        marks = [time.process_time()]
        kept = selection.keep(rows, judged, {"share": "6/100"})
        marks.append(time.process_time())
        summary = selection.write(Path(place), rows, judged, kept, [number])
        marks.append(time.process_time())
        out = selection.left_out(Path(place), 0, number)
        marks.append(time.process_time())
    assert len(out) + summary["kept"] == number
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    steps = [f"{b - a:.1f}" for a, b in pairwise(marks)]
    print(f"{number:,} rows: chosen in {steps[0]} CPU s, written in {steps[1]}, read back in {steps[2]}")
    print(f"peak memory {after / 2**20:.2f} GiB, of it {before / 2**20:.2f} the rows and their scores")


def main() -> None:
    """Compare, or choose."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[4096, 32000])
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--lm-eval-python", help="python of an environment with lm-evaluation-harness")
    parser.add_argument("--select", type=int, default=0, metavar="ROWS")
    parser.add_argument("--answers", type=int, default=0, metavar="N", help="compare shared prompts with N answers")
    options = parser.parse_args()
    if options.select:
        select(options.select)
        return
    import torch

    torch.set_num_threads(1)
    for vocabulary in options.vocabulary:
        (shared_prompts if options.answers else compare)(vocabulary, options)


if __name__ == "__main__":
    main()
