"""Training speed and memory against the peers' own packed and grouped settings, each in a process of its own.

    python benchmarks/train_peers.py --trl-python A/bin/python --lf-python D/bin/python --rounds 2

One round runs every implementation once, one after another (A B A B), from the same random LLaMA (11 M parameters
besides its embeddings) on the same rows, float32, AdamW, about the same tokens a step. Rows are words that are a token
each, so every tool reads the same text. Counted are real tokens (no padding) that pass through the model after the
first step, over processor seconds from then on; and the peak memory of the whole process.

LLaMA-Factory on a CPU build of torch may need an empty module `torchaudio` on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LONGEST = 1024
STEP_TOKENS = 3072
ROWS_A_STEP = 8
SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<unk>"]


def chats(number: int, vocabulary: int) -> list[list[dict[str, str]]]:
    """Return chats of one turn whose lengths are log-normal, a fifth to three fifths of each the question."""
    draw = random.Random(0)
    found = []
    for _ in range(number):
        length = min(LONGEST - 16, max(24, int(draw.lognormvariate(5.2, 0.75))))
        asked = int(length * draw.uniform(0.2, 0.6))
        words = [f"w{draw.randrange(vocabulary - len(SPECIAL))}" for _ in range(length)]
        found.append(
            [
                {"role": "user", "content": " ".join(words[:asked])},
                {"role": "assistant", "content": " ".join(words[asked:])},
            ]
        )
    return found


def make_model(folder: Path, vocabulary: int) -> None:
    """Save a random LLaMA and its tokenizer, a token a word."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = SPECIAL + [f"w{i}" for i in range(vocabulary - len(SPECIAL))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    make: Any = PreTrainedTokenizerFast
    fast: Any = make(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<|im_end|>",
        bos_token="<s>",
        unk_token="<unk>",
        additional_special_tokens=["<|im_start|>"],
    )
    fast.chat_template = (
        "{% for m in messages %}{{ '<|im_start|> ' + m['role'] + ' ' + m['content'] + ' <|im_end|> ' }}{% endfor %}"
    )
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=4,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(config)
    model.save_pretrained(folder)


def token_rows(folder: Path) -> list[dict[str, list[int]]]:
    """Return the chats as ids with labels, the question masked."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    found = []
    for question, answer in map(json.loads, (folder / "chats.jsonl").read_text().splitlines()):
        head = tokenizer.encode(f"<|im_start|> user {question['content']} <|im_end|> <|im_start|> assistant").ids
        tail = tokenizer.encode(f"{answer['content']} <|im_end|>").ids
        found.append({"input_ids": head + tail, "labels": [-100] * len(head) + tail})
    return found


class Meter:
    """Counts real tokens in the model's forward, and seconds, from the end of the first step on."""

    def __init__(self) -> None:
        self.tokens = self.before = 0
        self.start: tuple[float, float] | None = None
        self.end = (0.0, 0.0)

    def watch(self, model: Any) -> None:
        """Count what passes through a model; loaders read ahead, so they cannot tell."""

        def count(module: Any, given: Any, named: Any) -> None:
            self.tokens += int((named["input_ids"] != 0).sum())

        model.register_forward_pre_hook(count, with_kwargs=True)

    def step(self) -> None:
        """A step has ended."""
        self.end = (time.process_time(), time.perf_counter())
        if self.start is None:
            self.start, self.before = self.end, self.tokens

    def tell(self) -> None:
        """Print what was measured."""
        assert self.start is not None
        tokens, cpu, wall = self.tokens - self.before, self.end[0] - self.start[0], self.end[1] - self.start[1]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print("RESULT " + json.dumps({"tokens": tokens, "cpu": tokens / cpu, "wall": tokens / wall, "mib": peak}))


METER = Meter()


def _callback() -> Any:
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_train_begin(self, *given: Any, model: Any = None, **named: Any) -> None:
            METER.watch(model)

        def on_step_end(self, *given: Any, **named: Any) -> None:
            METER.step()

    return Watch()


def _settings(out: Path) -> dict[str, Any]:
    return {
        "output_dir": str(out),
        "num_train_epochs": 1,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "optim": "adamw_torch_fused",
        "disable_tqdm": True,
    }


def transformers_groups(folder: Path, out: Path) -> None:
    """Train with transformers' Trainer, rows of like length together."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, LlamaForCausalLM, Trainer, TrainingArguments

    given = _settings(out)
    arguments = TrainingArguments(
        per_device_train_batch_size=ROWS_A_STEP, train_sampling_strategy="group_by_length", **given
    )
    loader = DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(folder), padding=True, label_pad_token_id=-100)
    model: Any = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    data: Any = Dataset.from_list(token_rows(folder))
    Trainer(model=model, args=arguments, train_dataset=data, data_collator=loader, callbacks=[_callback()]).train()
    METER.tell()


def trl(folder: Path, out: Path, *, packed: bool) -> None:
    """Train with TRL, best-fit packed rows or flat batches without padding."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found, unused-ignore]

    arguments = SFTConfig(
        max_length=LONGEST if packed else None,
        packing=packed,
        packing_strategy="bfd",
        padding_free=not packed,
        per_device_train_batch_size=STEP_TOKENS // LONGEST if packed else ROWS_A_STEP,
        gradient_checkpointing=False,
        **_settings(out),
    )
    model: Any = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(token_rows(folder)),
        processing_class=AutoTokenizer.from_pretrained(folder),
        callbacks=[_callback()],
    ).train()
    METER.tell()


def llama_factory(folder: Path, out: Path) -> None:
    """Train with LLaMA-Factory's neat packing."""
    os.environ["DISABLE_VERSION_CHECK"] = "1"
    from llamafactory.train.tuner import run_exp  # type: ignore[import-not-found, unused-ignore]

    out.mkdir(parents=True, exist_ok=True)
    rows = map(json.loads, (folder / "chats.jsonl").read_text().splitlines())
    (out / "x.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    about = {"file_name": "x.jsonl", "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
    (out / "dataset_info.json").write_text(json.dumps({"x": about}))
    given = {
        "model_name_or_path": str(folder),
        "stage": "sft",
        "do_train": True,
        "dataset": "x",
        "dataset_dir": str(out),
        "template": "chatml",
        "cutoff_len": LONGEST,
        "packing": True,
        "neat_packing": True,
        "finetuning_type": "full",
        "per_device_train_batch_size": STEP_TOKENS // LONGEST,
        "disable_gradient_checkpointing": True,
        "overwrite_cache": True,
        "preprocessing_num_workers": 1,
        **_settings(out / "out"),
    }
    run_exp(given, callbacks=[_callback()])
    METER.tell()


def cuvee(folder: Path, out: Path, *, tokens: int = STEP_TOKENS) -> None:
    """Train with cuvee's loop, at most so many tokens a forward pass."""
    from cuvee.data.batches import micro_batches
    from cuvee.engine import loop
    from cuvee.engine.disk import Checkpoints
    from cuvee.protocols import TokenRow
    from cuvee.runtime import Runtime

    rows = []
    for row in token_rows(folder):
        start = row["labels"].count(-100)
        rows.append(TokenRow(row["input_ids"], [(start, len(row["input_ids"]))]))
    order = list(range(len(rows)))
    steps = [order[i : i + ROWS_A_STEP] for i in range(0, len(order), ROWS_A_STEP)]
    hyper = {
        "learning_rate": 1e-4,
        "schedule": "constant",
        "warmup": 0.0,
        "weight_decay": 0.0,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "clip": 1.0,
        "precision": "float32",
        "seed": 0,
    }
    runtime = Runtime(threads=1, micro_tokens=tokens, device="cpu", checkpoint_seconds=1e9)
    sizes = [sum(len(rows[i].ids) for i in step) for step in steps]

    out.mkdir(parents=True, exist_ok=True)
    training = loop.Training(folder, rows, steps, hyper, out, runtime, lambda facts: None, micro_batches)
    training.resume_or_start(Checkpoints(out, ""))
    inner = training.step

    def step(number: int) -> Any:
        record = inner(number)
        METER.tokens += sizes[number]
        METER.step()
        return record

    training.step = step  # type: ignore[method-assign]
    training.run()
    METER.tell()


WAYS: dict[str, Any] = {
    "cuvee": cuvee,
    "cuvee, 1024 a pass": lambda folder, out: cuvee(folder, out, tokens=1024),
    "trl padding-free": lambda folder, out: trl(folder, out, packed=False),
    "trl best-fit": lambda folder, out: trl(folder, out, packed=True),
    "transformers groups": transformers_groups,
    "llama-factory neat": llama_factory,
}


def _python(name: str, options: argparse.Namespace) -> Any:
    if name.startswith("llama"):
        return options.lf_python
    return sys.executable if name.startswith("cuvee") else options.trl_python


def compare(vocabulary: int, options: argparse.Namespace) -> None:
    """Run all rounds for one vocabulary and print speeds, memory and ratios."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS if _python(name, options)}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        make_model(folder, vocabulary)
        (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats(options.rows, vocabulary)))
        for number in range(options.rounds):
            for name in found:
                command = [str(_python(name, options)), __file__, "--one", name, str(folder), f"{place}/{number}{name}"]
                environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
                done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
                told = [line[7:] for line in done.stdout.splitlines() if line.startswith("RESULT ")]
                if not told:
                    print(f"  {name} failed: {done.stderr[-600:]}", flush=True)
                    continue
                found[name].append(json.loads(told[-1]))
                one = found[name][-1]
                speed = f"{one['cpu']:7.0f} tokens a CPU second, {one['wall']:7.0f} a second"
                print(f"  round {number + 1} {name:22} {speed}, {one['mib']:6.0f} MiB", flush=True)
    for name in list(found)[1:]:
        if not found[name]:
            continue
        ratios = {key: _median(found["cuvee"], key) / _median(found[name], key) for key in ("cpu", "wall", "mib")}
        print(
            f"  vocabulary {vocabulary}: cuvee / {name}: {ratios['cpu']:.2f} of tokens a CPU second, "
            f"{ratios['wall']:.2f} a second, {ratios['mib']:.2f} of the memory"
        )


def _median(found: list[dict[str, float]], key: str) -> float:
    return statistics.median(one[key] for one in found)


def main() -> None:
    """Parse the arguments; run one way of training, or compare all."""
    if sys.argv[1:2] == ["--one"]:
        name, folder, out = sys.argv[2:5]
        WAYS[name](Path(folder), Path(out))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[4096, 32000])
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--trl-python", help="a Python with TRL (and transformers, datasets)")
    parser.add_argument("--lf-python", help="a Python with LLaMA-Factory")
    options = parser.parse_args()
    for vocabulary in options.vocabulary:
        compare(vocabulary, options)


if __name__ == "__main__":
    main()
