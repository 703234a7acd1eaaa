"""Data preparation against TRL's and LLaMA-Factory's, and against the tokenizer alone: rows a second, in turns.

    python benchmarks/prepare_speed.py rows.jsonl --model MODEL_FOLDER \\
        --trl-python TRL/bin/python --lf-python LF/bin/python --rounds 2

`rows.jsonl` holds conversations, one a line: ``{"messages": [{"role": "user", "content": ...}, ...]}``. Every
preparation runs in a process of its own, in turns (A B C A B C), reads that file and writes its result to disk:

    cuvee     the load and the render stage of one source (examples.write, rendered.write), `--threads` threads, the
              mixture, and one epoch's steps of `--batch-size` rows split into passes of at most `--token-budget` tokens
    stages    planning and the load, render and mix stages of the file cut into four sources, run by the runner with
              `--processes` workers of one thread, and the same steps and passes; the workers' start counts
    raw       the tokenizer's encode_batch on texts rendered before, its own threads, nothing written: what tokenising
              alone takes
    trl       SFTTrainer's preparation (chat template, completion mask, packing), `--processes` processes
    lf        LLaMA-Factory's preprocessing (its template chatml or vicuna, mask, packing), `--processes` processes

All show the same text: plain ChatML (or vicuna's), without a system turn that the row has not. Times start when
libraries and tokenizer are loaded and end when the result is written; processes that a preparation starts count with
all they do. CPU seconds are those of the whole tree of processes, those that ended included. Peers live in environments
of their own; LLaMA-Factory on a torch without CUDA needs torchvision taken out and an empty module torchaudio.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

VICUNA_MASKED = (
    "{{ 'A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user\\'s questions. ' }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ 'USER: ' + m['content'] + ' ' }}{% else %}{{ 'ASSISTANT: ' }}{% generation %}{{ m['content'] + eos_token }}"
    "{% endgeneration %}{% endif %}{% endfor %}"
)
CHATML_MASKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}{% else %}{{ m['content'] + '<|im_end|>\\n' }}"
    "{% endif %}{% endfor %}"
)


Prepare = Callable[[], Callable[[], int]]
"""Does the work and returns what counts the tokens, which is not timed."""


def cuvee(options: argparse.Namespace, work: Path) -> Prepare:
    """Load, render, mix and pack as the stages do."""
    from cuvee.data import examples, files, mixture, rendered
    from cuvee.data.chat import Chat
    from cuvee.sources import local

    path = str(Path(options.rows).resolve())
    params: dict[str, Any] = {"format": "messages", "columns": {}, "tags": None, "files": [files.content_hash(path)]}

    chat = Chat(options.model, options.template, max_length=options.max_length)

    def prepare() -> Callable[[], int]:
        examples.write(work, local.examples(params, {"paths": [path]}), Fraction(1, 100))
        rendered.write(work, work, chat, options.threads)
        rows = [rendered.Rendered(work)]
        mixture.write(work, rows, {"heldout": "0", "split_seed": 0, "seed": 0, "parts": [{"amounts": []}]})
        tokens = packed(mixture.MixtureRows(work, rows), options)
        return lambda: tokens

    return prepare


def packed(rows: Any, options: argparse.Namespace) -> int:
    """Split every step of one epoch into forward passes; return the tokens in them."""
    from cuvee.data import batches

    steps = batches.plan_steps(rows.keys, rows.copies, 1, options.batch_size, 0)
    passes = (some for step in steps for some in batches.micro_batches(rows.lengths, step, options.token_budget))
    return sum(int(rows.lengths[some].sum()) for some in passes)


def stages(options: argparse.Namespace, work: Path) -> Prepare:
    """Plan and run the stages of four sources."""
    from cuvee import api, runner
    from cuvee.data.mixture import MixtureRows
    from cuvee.data.rendered import Rendered
    from cuvee.store import Store

    lines = Path(options.rows).read_bytes().splitlines(keepends=True)
    for number in range(SOURCES):
        part = lines[len(lines) * number // SOURCES : len(lines) * (number + 1) // SOURCES]
        (work / f"{number}.jsonl").write_bytes(b"".join(part))
    # Weights are not at issue: a file of none takes their place.
    model = shutil.copytree(options.model, work / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    (model / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    recipe = {
        "base": str(model),
        "sources": {f"s{number}": {"path": str(work / f"{number}.jsonl"), "ability": "a"} for number in range(SOURCES)},
        "training": {"template": options.template, "max_length": options.max_length},
        "heldout": 0,
        "runs": [{"strategy": "multi_task"}],
        "evaluation": [],
    }
    runtime = api.Runtime(store=work / "store", workers=options.processes, threads=1, device="cpu")

    def prepare() -> Callable[[], int]:
        plan = api.plan(api.load_recipe(recipe), runtime)
        targets = [stage for stage in plan.stages if stage.kind in ("load", "render", "mix")]
        runner.raise_if_failed(runner.execute(plan, runtime, lambda *_: None, {}, targets))
        store = Store(runtime.store)
        (mix,) = (stage for stage in plan.stages if stage.kind == "mix")
        rows = [Rendered(store.path("render", part.id)) for part in mix.inputs["parts"]]
        tokens = packed(MixtureRows(store.path("mix", mix.id), rows), options)
        return lambda: tokens

    return prepare


def raw(options: argparse.Namespace, work: Path) -> Prepare:
    """Tokenise rendered texts and nothing else."""
    from cuvee.data.chat import Chat

    chat = Chat(options.model, options.template)
    with open(options.rows, encoding="utf-8") as stream:
        texts = [chat._render(json.loads(line)["messages"], False) for line in stream]

    def prepare() -> Callable[[], int]:
        found = 0
        for start in range(0, len(texts), 1024):
            batch = chat.tokenizer.encode_batch(texts[start : start + 1024], add_special_tokens=False)
            found += sum(map(len, batch))
        return lambda: found

    return prepare


def trl(options: argparse.Namespace, work: Path) -> Prepare:
    """Prepare as TRL's SFTTrainer does, with the loss on the assistant's turns."""
    from datasets import load_dataset
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    tokenizer.chat_template = VICUNA_MASKED if options.template == "vicuna_v1.1" else CHATML_MASKED
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))
    several = options.processes if options.processes > 1 else None

    def prepare() -> Callable[[], int]:
        data = load_dataset("json", data_files=options.rows, split="train", cache_dir=str(work))
        config = SFTConfig(
            output_dir=str(work),
            max_length=options.max_length,
            packing=True,
            assistant_only_loss=True,
            use_cpu=True,
            bf16=False,
            report_to="none",
            dataset_num_proc=several,
        )
        trainer = SFTTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer)
        return lambda: _tokens(trainer.train_dataset)

    return prepare


def lf(options: argparse.Namespace, work: Path) -> Prepare:
    """Prepare as LLaMA-Factory does."""
    os.environ["DISABLE_VERSION_CHECK"] = "1"
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from transformers import AutoTokenizer

    (work / "rows.jsonl").symlink_to(Path(options.rows).resolve())
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    told = {"file_name": "rows.jsonl", "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
    (work / "dataset_info.json").write_text(json.dumps({"rows": told}), encoding="utf-8")
    given = get_train_args(
        {
            "model_name_or_path": options.model,
            "stage": "sft",
            "do_train": True,
            "dataset": "rows",
            "dataset_dir": str(work),
            "template": "vicuna" if options.template == "vicuna_v1.1" else "chatml",
            "cutoff_len": options.max_length,
            "packing": True,
            "preprocessing_num_workers": options.processes,
            "output_dir": str(work / "out"),
            "overwrite_cache": True,
            "finetuning_type": "full",
            "use_cpu": True,
            "report_to": "none",
        }
    )
    model_args, data_args, training_args = given[:3]
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    template = get_template_and_fix_tokenizer(tokenizer, data_args)

    def prepare() -> Callable[[], int]:
        data: Any = get_dataset(template, model_args, data_args, training_args, stage="sft", tokenizer=tokenizer)
        return lambda: _tokens(data["train_dataset"])

    return prepare


def _tokens(data: Any) -> int:
    return sum(len(row) for row in data["input_ids"])


WAYS: dict[str, Callable[[argparse.Namespace, Path], Prepare]] = {
    "cuvee": cuvee,
    "stages": stages,
    "raw": raw,
    "trl": trl,
    "lf": lf,
}
SOURCES = 4

TARGETS = {"raw": 0.8, "trl": 4.0, "lf": 3.0}
"""How many times as fast as these cuvee should be, in CPU seconds and in seconds."""


def measure(options: argparse.Namespace) -> None:
    """Run one way in this process, between two lines that say so, and print how many tokens came of it."""
    with tempfile.TemporaryDirectory(dir=options.folder) as work:
        prepare = WAYS[options.one](options, Path(work))
        print("READY", flush=True)
        sys.stdin.readline()
        count = prepare()
        print("DONE", flush=True)
        print(f"TOKENS {count()}", flush=True)


def tree_seconds(root: int) -> float:
    """Return the CPU seconds of a process, of those it started, and of those that these waited for."""
    seconds: dict[int, float] = {}
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            told = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        seconds[int(folder.name)] = sum(map(int, told[11:15])) / os.sysconf("SC_CLK_TCK")
        children.setdefault(int(told[1]), []).append(int(folder.name))
    total, queue = 0.0, [root]
    while queue:
        one = queue.pop()
        total += seconds.get(one, 0.0)
        queue += children.get(one, [])
    return total


def _run(name: str, python: str, arguments: list[str]) -> dict[str, float]:
    parallel = "false" if name in ("trl", "lf", "cuvee", "stages") else "true"
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": parallel, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [python, __file__, *arguments, "--one", name]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    with tempfile.TemporaryFile("w+") as log, subprocess.Popen(command, stderr=log, **pipes) as process:
        _wait_for("READY", process, log, name)
        start, used = time.perf_counter(), tree_seconds(process.pid)
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        _wait_for("DONE", process, log, name)
        found = {"seconds": time.perf_counter() - start, "cpu": tree_seconds(process.pid) - used}
        tokens = _wait_for("TOKENS", process, log, name)
    return {**found, "tokens": int(tokens)}


def _wait_for(word: str, process: subprocess.Popen[str], log: IO[str], name: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(word):
            return line.removeprefix(word).strip()
    log.seek(0)
    raise SystemExit(f"{name} failed:\n{log.read()[-4000:]}")


def main() -> None:
    """Measure all ways in turns; print rows a second, megabytes a second, and the ratios to cuvee, round by round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", help="conversations, one JSON object a line")
    parser.add_argument("--model", required=True, help="folder with tokenizer.json")
    parser.add_argument("--template", default="chatml", help="chatml or vicuna_v1.1")
    parser.add_argument("--max-length", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128, help="rows of a step; what cuvee packs")
    parser.add_argument("--token-budget", type=int, default=8192, help="most tokens of a forward pass of cuvee")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--trl-python", help="python of an environment with trl")
    parser.add_argument("--lf-python", help="python of an environment with llamafactory")
    parser.add_argument("--folder", default=None, help="where results are written")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(options)
        return
    pythons = {name: sys.executable for name in ("cuvee", "stages", "raw")}
    pythons |= {"trl": options.trl_python, "lf": options.lf_python}
    names = [name for name in WAYS if pythons[name] and shutil.which(pythons[name])]
    data = Path(options.rows).read_bytes()
    rows, megabytes = data.count(b"\n"), len(data) / 1e6
    print(f"{rows:,} rows, {megabytes:.1f} MB, template {options.template}; cuvee packs steps of {options.batch_size} "
          f"rows into passes of {options.token_budget:,} tokens")  # fmt: skip
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            found[name].append(_run(name, str(pythons[name]), sys.argv[1:]))
            one = found[name][-1]
            print(f"  {name:6} {one['seconds']:7.2f} s {one['cpu']:7.2f} CPU s {one['tokens']:,} tokens", flush=True)
    print("medians, and in brackets how many times what cuvee takes, then what stages take, in each round")
    for name in names:
        _print(name, rows, megabytes, found)
    for name in (name for name in names if name in TARGETS):
        _judge(name, found)


def _judge(name: str, found: dict[str, list[dict[str, float]]]) -> None:
    """Print how many times what cuvee takes another way takes, beside the target, for the worst round too."""
    for key in ("cpu", "seconds"):
        ratios = [one[key] / own[key] for one, own in zip(found[name], found["cuvee"], strict=True)]
        middle = statistics.median(ratios)
        verdict = "reached" if middle >= TARGETS[name] else "missed"
        print(
            f"{name:6} {key:7} / cuvee: median {middle:.2f}, least {min(ratios):.2f}; target {TARGETS[name]} {verdict}"
        )


def _print(name: str, rows: int, megabytes: float, found: dict[str, list[dict[str, float]]]) -> None:
    def middle(key: str) -> float:
        return statistics.median(one[key] for one in found[name])

    def ratios(key: str) -> str:
        shown = (
            " ".join(f"{one[key] / own[key]:.2f}" for one, own in zip(found[name], found[base], strict=True))
            for base in ("cuvee", "stages")
        )
        return " | ".join(shown)

    seconds, cpu = middle("seconds"), middle("cpu")
    print(
        f"{name:6} {rows / seconds:8,.0f} rows/s {megabytes / seconds:6.2f} MB/s   {seconds:6.2f} s "
        f"[{ratios('seconds')}]   {cpu:6.2f} CPU s [{ratios('cpu')}]"
    )


if __name__ == "__main__":
    main()
