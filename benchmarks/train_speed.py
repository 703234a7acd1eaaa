"""Training speed: cuvee's loop against a padded Hugging Face Trainer (and TRL when installed), same rows, one run.

    PYTHONPATH=src python benchmarks/train_speed.py --vocabulary 4096 32000 --rounds 2

Each round runs every implementation once, one after another (A B A B), each from the same random LLaMA on
the same rows, float32, AdamW, the same examples a step. What is counted is real tokens (no padding) of all
rows, each trained on exactly once, over processor seconds of the training alone: no loading, no saving.
Ratios are those of the medians, with the lowest and highest over all pairs of rounds.

Trainer and TRL do more than cuvee in places (metrics) and less in others (checkpoints are off for all).
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cuvee.data.batches import micro_batches
from cuvee.engine import loop
from cuvee.engine.disk import Checkpoints
from cuvee.protocols import TokenRow
from cuvee.runtime import Runtime

Rows = Sequence[TokenRow]


def make_rows(number: int, vocabulary: int, longest: int, seed: int) -> list[TokenRow]:
    """Return rows with lengths as chats have them (log-normal), about half of each supervised."""
    draw = random.Random(seed)
    rows = []
    for _ in range(number):
        length = min(longest, max(16, int(draw.lognormvariate(5.2, 0.8))))
        ids = [draw.randrange(3, vocabulary) for _ in range(length)]
        rows.append(TokenRow(ids, [(int(length * draw.uniform(0.3, 0.7)), length)]))
    return rows


def make_model(folder: Path, vocabulary: int) -> int:
    """Save a random LLaMA of about 11 million parameters besides its embeddings; return its size."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=1024,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return int(model.num_parameters())


def timed(work: Callable[[], Any]) -> float:
    """Return the processor seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def cuvee(folder: Path, rows: Rows, options: argparse.Namespace) -> float:
    """Return the processor seconds of cuvee's loop."""
    steps = [list(range(i, min(i + options.batch, len(rows)))) for i in range(0, len(rows), options.batch)]
    hyper = {
        "learning_rate": 2e-5,
        "schedule": "cosine",
        "warmup": 0.03,
        "weight_decay": 0.0,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "clip": 1.0,
        "precision": "float32",
        "seed": 0,
    }
    runtime = Runtime(threads=options.threads, micro_tokens=options.micro_tokens, device="cpu", checkpoint_seconds=1e9)
    with tempfile.TemporaryDirectory() as work:
        training = loop.Training(folder, rows, steps, hyper, Path(work), runtime, lambda facts: None, micro_batches)
        training.resume_or_start(Checkpoints(Path(work), ""))
        return timed(training.run)


def _trainer_arguments(kind: Any, options: argparse.Namespace, rows_a_pass: int, **more: Any) -> Any:
    return kind(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=rows_a_pass,
        gradient_accumulation_steps=max(1, options.batch // rows_a_pass),
        num_train_epochs=1,
        learning_rate=2e-5,
        lr_scheduler_type="cosine",
        warmup_steps=1,
        optim="adamw_torch_fused",
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        bf16=False,
        **more,
    )


def _collate(batch: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    longest = max(len(row["input_ids"]) for row in batch)

    def pad(name: str, filler: int) -> torch.Tensor:
        return torch.tensor([list(row[name]) + [filler] * (longest - len(row[name])) for row in batch])

    return {"input_ids": pad("input_ids", 0), "labels": pad("labels", -100), "attention_mask": pad("mask", 0)}


def _as_dicts(rows: Rows) -> list[dict[str, Any]]:
    found = []
    for row in rows:
        start = row.spans[0][0]
        labels = [-100] * start + list(row.ids[start:])
        found.append({"input_ids": list(row.ids), "labels": labels, "mask": [1] * len(row.ids)})
    return found


def trainer(folder: Path, rows: Rows, options: argparse.Namespace, rows_a_pass: int = 0) -> float:
    """Return the processor seconds of transformers' Trainer on padded batches; one row a pass pads nothing."""
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    data: Any = _as_dicts(rows)
    arguments = _trainer_arguments(
        TrainingArguments, options, rows_a_pass or options.rows_a_pass, remove_unused_columns=False
    )
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return timed(Trainer(model=model, args=arguments, train_dataset=data, data_collator=_collate).train)


def trl(folder: Path, rows: Rows, options: argparse.Namespace) -> float:
    """Return the processor seconds of TRL's SFTTrainer, padded, on the same token ids."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    make: Any = PreTrainedTokenizerFast
    tokenizer: Any = make(
        tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2}, "<pad>")),
        pad_token="<pad>",
        eos_token="</s>",
    )
    data = Dataset.from_list(
        [
            {"input_ids": r["input_ids"], "completion_mask": [int(x != -100) for x in r["labels"]]}
            for r in _as_dicts(rows)
        ]
    )
    arguments = _trainer_arguments(SFTConfig, options, options.rows_a_pass, max_length=None, packing=False)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return timed(SFTTrainer(model=model, args=arguments, train_dataset=data, processing_class=tokenizer).train)


def compare(vocabulary: int, options: argparse.Namespace) -> None:
    """Run all rounds for one vocabulary and print speeds and ratios."""
    peers: dict[str, Callable[..., float]] = {
        "cuvee": cuvee,
        "trainer": trainer,
        "trainer, 1 row a pass": partial(trainer, rows_a_pass=1),
    }
    if importlib.util.find_spec("trl"):
        peers["trl"] = trl
    rows = make_rows(options.rows, vocabulary, options.longest, seed=1)
    tokens = sum(len(row.ids) for row in rows)
    at_once = [rows[i : i + options.rows_a_pass] for i in range(0, len(rows), options.rows_a_pass)]
    padded = sum(max(len(row.ids) for row in group) * len(group) for group in at_once)
    speeds: dict[str, list[float]] = {name: [] for name in peers}
    with tempfile.TemporaryDirectory() as place:
        size = make_model(Path(place) / "model", vocabulary)
        print(
            f"\nvocabulary {vocabulary}, {size / 1e6:.1f} M parameters, {len(rows)} rows, {tokens} tokens, "
            f"{padded / tokens:.2f} times as many padded"
        )
        for number in range(options.rounds):
            for name, work in peers.items():
                torch.set_num_threads(options.threads)
                seconds = work(Path(place) / "model", rows, options)
                speeds[name].append(tokens / seconds)
                print(f"  round {number + 1} {name:22} {tokens / seconds:8.0f} tokens a CPU second", flush=True)
    for name in list(peers)[1:]:
        pairs = [a / b for a in speeds["cuvee"] for b in speeds[name]]
        ratio = statistics.median(speeds["cuvee"]) / statistics.median(speeds[name])
        print(f"  cuvee / {name}: {ratio:.2f}x [{min(pairs):.2f} .. {max(pairs):.2f}]")


def main() -> None:
    """Parse the arguments and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[4096, 32000])
    parser.add_argument("--rows", type=int, default=32, help="rows of one round, each trained on once")
    parser.add_argument("--batch", type=int, default=16, help="examples an optimiser step")
    parser.add_argument("--rows-a-pass", type=int, default=8, help="examples a forward pass of the padded peers")
    parser.add_argument("--micro-tokens", type=int, default=2048, help="tokens a forward pass of cuvee")
    parser.add_argument("--longest", type=int, default=1024, help="tokens of the longest row")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {options.threads} thread(s), batch {options.batch}")
    for vocabulary in options.vocabulary:
        compare(vocabulary, options)


if __name__ == "__main__":
    main()
