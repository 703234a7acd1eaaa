"""Learning curves of cuvee's loop and of TRL's SFTTrainer: same model, rows, order, batches, optimiser, learning rate.

    PYTHONPATH=src python benchmarks/trl_curve.py --model ~/.cache/cuvee/smollm2-135m-instruct \
        --math gsm8k_train.jsonl.gz --code code_alpaca_20k.jsonl.gz --out curves.json

Rows are GSM8K questions and Code Alpaca instructions with their answers in the model's own chat template, half of each,
no longer than `--longest` tokens, every eighth one held out. The learning rate is constant: TRL's warm-up begins one
step earlier than cuvee's. After each of `--looks` equal parts of the steps the mean loss of the held-out rows' answers
is taken of both by the same function. TRL pads its batches; cuvee does not.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from cuvee import seeds
from cuvee.data.batches import micro_batches
from cuvee.data.chat import Chat
from cuvee.engine import loading, loop
from cuvee.engine.disk import mark_file
from cuvee.engine.flat import flatten
from cuvee.engine.loss import token_losses
from cuvee.protocols import TokenRow
from cuvee.runtime import Runtime
from cuvee.values import Example, Message

Curve = dict[str, Any]


def conversations(math: Path, code: Path) -> Iterator[tuple[int, str, str]]:
    """Yield (part, question, answer)."""
    for part, path in enumerate((math, code)):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                if part == 0:
                    yield part, row["question"], row["answer"]
                else:
                    yield part, "\n".join(filter(None, (row["instruction"], row["input"]))), row["output"]


def read(options: argparse.Namespace) -> tuple[list[TokenRow], list[TokenRow]]:
    """Return the rows to train on, in order, and the held-out ones."""
    wanted = options.steps * options.batch
    chosen: dict[int, list[tuple[int, str, str]]] = {0: [], 1: []}
    for part, question, answer in conversations(options.math, options.code):
        chosen[part].append((seeds.rank(0, "curve", question.encode()), question, answer))
    chat = Chat(options.model, "tokenizer", mask="all", max_length=2048, too_long="trim")
    rows: dict[int, list[TokenRow]] = {0: [], 1: []}
    need = wanted // 2 + options.heldout // 2
    for part, each in chosen.items():
        for _, question, answer in sorted(each):
            (row,) = chat.render([Example((Message("user", question), Message("assistant", answer)))])
            if row.num_supervised and len(row.ids) <= options.longest:
                rows[part].append(TokenRow(list(row.ids), [(int(a), int(b)) for a, b in row.spans], part))
            if len(rows[part]) == need:
                break
        else:
            raise SystemExit(f"only {len(rows[part])} of {need} rows have at most {options.longest} tokens")
    mixed = [row for pair in zip(rows[0], rows[1], strict=True) for row in pair]
    return mixed[:wanted], mixed[wanted:]


def heldout_loss(model: Any, rows: Sequence[TokenRow]) -> float:
    """Return the mean loss of the rows' answers, one row a pass."""
    model.eval()
    with torch.no_grad():
        losses = torch.cat([token_losses(model, flatten([row], torch.device("cpu")), segments=False) for row in rows])
    return float(losses.double().mean())


def cuvee(rows: list[TokenRow], heldout: list[TokenRow], options: argparse.Namespace) -> Curve:
    """Train with cuvee's loop; the held-out loss is that of its marks."""
    steps = [list(range(i, i + options.batch)) for i in range(0, len(rows), options.batch)]
    hyper = {
        "learning_rate": options.rate,
        "schedule": "constant",
        "warmup": 0.0,
        "weight_decay": 0.0,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "clip": 1.0,
        "precision": "float32",
        "seed": 0,
    }
    runtime = Runtime(threads=options.threads, micro_tokens=2048, device="cpu", checkpoint_seconds=1e9)
    marks = [Fraction(number, options.looks) for number in range(1, options.looks)]
    with tempfile.TemporaryDirectory() as place:
        work = Path(place) / "work"
        start = time.process_time()
        loop.train(
            options.model,
            rows,
            steps,
            hyper,
            Path(place) / "out",
            work,
            runtime,
            lambda facts: None,
            micro_batches=micro_batches,
            marks=marks,
        )
        took = time.process_time() - start
        records = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
        looked = [heldout_loss(loading.load_stock(options.model, torch.float32), heldout)]
        looked += [heldout_loss(_marked(options.model, mark_file(work, at)), heldout) for at in marks]
        looked.append(heldout_loss(loading.load_stock(Path(place) / "out", torch.float32), heldout))
    return {"loss": [record["loss"] for record in records], "heldout": looked, "cpu_seconds": took}


def _marked(folder: Path, file: Path) -> Any:
    from safetensors.torch import load_file

    model = loading.load_stock(folder, torch.float32)
    model.load_state_dict(load_file(file), strict=False)
    return model


def trl(rows: list[TokenRow], heldout: list[TokenRow], options: argparse.Namespace) -> Curve:
    """Train with TRL on the same rows in the same order."""
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    looked: list[float] = []

    class Look(TrainerCallback):
        """Take the held-out loss after each part."""

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.global_step % (options.steps // options.looks) == 0:
                looked.append(heldout_loss(more["model"], heldout))
                more["model"].train()

    class InOrder(SFTTrainer):  # type: ignore[misc]
        """Takes the rows as they come."""

        def _get_train_sampler(self, *given: Any) -> Any:
            return SequentialSampler(self.train_dataset)

    arguments = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=options.batch,
        num_train_epochs=1,
        learning_rate=options.rate,
        lr_scheduler_type="constant",
        warmup_steps=0,
        optim="adamw_torch_fused",
        weight_decay=0.0,
        max_grad_norm=1.0,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        gradient_checkpointing=False,
        completion_only_loss=True,
        max_length=None,
        packing=False,
    )
    data = Dataset.from_list([{"input_ids": list(row.ids), "completion_mask": _mask(row)} for row in rows])
    model: Any = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    looked.append(heldout_loss(model, heldout))
    trainer = InOrder(
        model=model,
        args=arguments,
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(options.model),
        callbacks=[Look()],
    )
    start = time.process_time()
    trainer.train()
    took = time.process_time() - start
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"loss": losses, "heldout": looked, "cpu_seconds": took}


def _mask(row: TokenRow) -> list[int]:
    inside = {place for start, end in row.spans for place in range(start, end)}
    return [int(place in inside) for place in range(len(row.ids))]


def main() -> None:
    """Train both, print the curves side by side and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--math", type=Path, required=True, help="GSM8K, JSONL.gz")
    parser.add_argument("--code", type=Path, required=True, help="Code Alpaca, JSONL.gz")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--heldout", type=int, default=64)
    parser.add_argument("--longest", type=int, default=256)
    parser.add_argument("--looks", type=int, default=4, help="held-out losses besides the first; divides the steps")
    parser.add_argument("--rate", type=float, default=2e-5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("curves.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows, heldout = read(options)
    tokens = sum(len(row.ids) for row in rows)
    print(f"{len(rows)} rows, {tokens} tokens, {len(heldout)} held out, torch {torch.__version__}", flush=True)
    curves = {}
    for name, work in (("cuvee", cuvee), ("trl", trl)):
        curves[name] = work(rows, heldout, options)
        options.out.write_text(json.dumps(curves, indent=1), encoding="utf-8")
        print(f"{name}: {curves[name]['cpu_seconds']:.0f} CPU seconds, held out {curves[name]['heldout']}", flush=True)
    apart = [abs(a - b) for a, b in zip(curves["cuvee"]["loss"], curves["trl"]["loss"], strict=True)]
    looks = [abs(a - b) for a, b in zip(curves["cuvee"]["heldout"], curves["trl"]["heldout"], strict=True)]
    print(f"largest difference of a step's loss {max(apart):.2e}, of a held-out loss {max(looks):.2e}")


if __name__ == "__main__":
    main()
