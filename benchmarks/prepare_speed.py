"""Data preparation against TRL's and LLaMA-Factory's, and against the tokenizer alone: rows a second, in turns.

    python benchmarks/prepare_speed.py rows.jsonl --model MODEL_FOLDER --template tokenizer \\
        --trl-python TRL/bin/python --lf-python LF/bin/python --rounds 2

`rows.jsonl` holds conversations, one a line: ``{"messages": [{"role": "user", "content": ...}, ...]}``. Every
preparation runs in a process of its own, in turns (A B C A B C), reads that file and writes its result to disk:

    cuvee     the load and the render stage (examples.write, rendered.write), one process, `--threads` threads
    raw       the tokenizer's encode_batch on texts rendered before, its own threads, nothing written: what tokenising
              alone takes
    trl       SFTTrainer's preparation (chat template, completion mask, packing), `--processes` processes
    lf        LLaMA-Factory's preprocessing (its template chatml or vicuna, mask, packing), `--processes` processes

Times start when libraries and tokenizer are loaded and end when the result is written. CPU seconds are told where one
process does the work; the peers' worker processes are not all waited for, so theirs cannot be counted. Peers live in
environments of their own; LLaMA-Factory on a torch without CUDA needs torchvision taken out and an empty module
torchaudio.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

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


def cuvee(options: argparse.Namespace, work: Path) -> Callable[[], int]:
    """Load and render as the stages do."""
    from cuvee.data import examples, files, rendered
    from cuvee.data.chat import Chat
    from cuvee.sources import local

    path = str(Path(options.rows).resolve())
    params: dict[str, Any] = {"format": "messages", "columns": {}, "tags": None, "files": [files.content_hash(path)]}

    chat = Chat(options.model, options.template, max_length=options.max_length)

    def prepare() -> int:
        examples.write(work, local.examples(params, {"paths": [path]}), Fraction(1, 100))
        return int(rendered.write(work, work, chat, options.threads)["total_tokens"])

    return prepare


def raw(options: argparse.Namespace, work: Path) -> Callable[[], int]:
    """Tokenise rendered texts and nothing else."""
    from cuvee.data.chat import Chat

    chat = Chat(options.model, options.template)
    with open(options.rows, encoding="utf-8") as stream:
        texts = [chat._render(json.loads(line)["messages"], False) for line in stream]

    def prepare() -> int:
        found = 0
        for start in range(0, len(texts), 1024):
            batch = chat.tokenizer.encode_batch(texts[start : start + 1024], add_special_tokens=False)
            found += sum(map(len, batch))
        return found

    return prepare


def trl(options: argparse.Namespace, work: Path) -> Callable[[], int]:
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

    def prepare() -> int:
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
        return sum(map(len, trainer.train_dataset["input_ids"]))

    return prepare


def lf(options: argparse.Namespace, work: Path) -> Callable[[], int]:
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

    def prepare() -> int:
        data: Any = get_dataset(template, model_args, data_args, training_args, stage="sft", tokenizer=tokenizer)
        return sum(map(len, data["train_dataset"]["input_ids"]))

    return prepare


WAYS = {"cuvee": cuvee, "raw": raw, "trl": trl, "lf": lf}


def measure(options: argparse.Namespace) -> None:
    """Run one way in this process and print what it took as JSON."""
    with tempfile.TemporaryDirectory(dir=options.folder) as work:
        prepare = WAYS[options.one](options, Path(work))
        start, cpu = time.perf_counter(), _cpu()
        tokens = prepare()
        print("RESULT" + json.dumps({"seconds": time.perf_counter() - start, "cpu": _cpu() - cpu, "tokens": tokens}))
        sys.stdout.flush()


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _run(name: str, python: str, arguments: list[str]) -> dict[str, float]:
    parallel = "false" if name in ("trl", "lf", "cuvee") else "true"
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": parallel, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [python, __file__, *arguments, "--one", name]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT")), None)
    if line is None:
        raise SystemExit(f"{name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    found: dict[str, float] = json.loads(line.removeprefix("RESULT"))
    return found


def main() -> None:
    """Measure all ways in turns and print rows a second and the ratios to cuvee."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", help="conversations, one JSON object a line")
    parser.add_argument("--model", required=True, help="folder with tokenizer.json")
    parser.add_argument("--template", default="tokenizer", help="tokenizer (peers use ChatML) or vicuna_v1.1")
    parser.add_argument("--max-length", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--trl-python", help="python of an environment with trl")
    parser.add_argument("--lf-python", help="python of an environment with llamafactory")
    parser.add_argument("--folder", default=None, help="where results are written")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(options)
        return
    pythons = {"cuvee": sys.executable, "raw": sys.executable, "trl": options.trl_python, "lf": options.lf_python}
    names = [name for name in WAYS if pythons[name] and shutil.which(pythons[name])]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            found[name].append(_run(name, str(pythons[name]), sys.argv[1:]))
    with open(options.rows, "rb") as stream:
        rows = sum(1 for _ in stream)
    for name in names:
        _print(name, rows, found)


def _print(name: str, rows: int, found: dict[str, list[dict[str, float]]]) -> None:
    def middle(key: str) -> float:
        return statistics.median(one[key] for one in found[name])

    def ratio(key: str) -> str:
        each = sorted(one[key] / own[key] for one, own in zip(found[name], found["cuvee"], strict=True))
        return f"{each[0]:.2f}..{each[-1]:.2f}"

    cpu = f"{middle('cpu'):7.2f} CPU s ({ratio('cpu')} of cuvee's)" if name in ("cuvee", "raw") else ""
    print(
        f"{name:6} {rows / middle('seconds'):9,.0f} rows/s  {middle('seconds'):7.2f} s ({ratio('seconds')} of "
        f"cuvee's)  {cpu}  {found[name][0]['tokens']:,} tokens"
    )


if __name__ == "__main__":
    main()
