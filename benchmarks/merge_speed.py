"""Merging against mergekit and a plain copy, on generated models: equality first, then time and memory.

    python benchmarks/merge_speed.py --peer /path/to/mergekit/python                 four models of 276 MB
    python benchmarks/merge_speed.py --peer ... --hidden 256 --layers 4 --rounds 1   small
    python benchmarks/merge_speed.py --limit                                         memory under a limit on data
    python benchmarks/merge_speed.py --scaling                                       CPU seconds by bytes and by models

Every round runs cuvee, mergekit and a copy of the same files, one after another, and each ratio is of one round; what
is printed is their median, with the least and the largest. Wall and CPU seconds of the whole process, of the merge
alone, and of the start (whole less alone). mergekit works in float32 (``dtype: float32``) and writes bfloat16, as cuvee
does.
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
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

PEER = """
import functools, json, sys, time, torch, yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
if sys.argv[3:] == ["stable"]:  # its sort leaves equal magnitudes in no order
    torch.argsort = functools.partial(torch.argsort, stable=True)
started, cpu = time.monotonic(), time.process_time()
config = MergeConfiguration.model_validate(yaml.safe_load(open(sys.argv[1])))
options = MergeOptions(copy_tokenizer=False, lazy_unpickle=True, low_cpu_memory=True, quiet=True, random_seed=0)
run_merge(config, sys.argv[2], options)
print(json.dumps({"seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - cpu}))
"""

METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "linear": ({"weights": [0.4, 0.3, 0.2, 0.1]}, {}),
    "slerp": ({"t": 0.3}, {"t": 0.3}),
    "task_arithmetic": ({"weights": [0.4, 0.3, 0.2, 0.1], "scale": 0.7}, {"lambda": 0.7}),
    "ties": ({"weights": [0.4, 0.3, 0.2, 0.1], "density": 0.5}, {"density": 0.5}),
    "dare_ties": ({"weights": [0.4, 0.3, 0.2, 0.1], "density": 0.5, "normalize": False}, {"density": 0.5}),
}
"""Parameters for cuvee, and those of the same meaning for mergekit."""


def make(root: Path, hidden: int, layers: int, vocabulary: int, count: int) -> None:
    """Write a base and models near it, bfloat16, with a Llama configuration."""
    inner, wide = hidden, hidden * 8 // 3
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for number in range(layers):
        layer = f"model.layers.{number}"
        shapes |= {f"{layer}.self_attn.{part}_proj.weight": (inner, hidden) for part in "qkvo"}
        shapes |= {f"{layer}.mlp.{part}_proj.weight": (wide, hidden) for part in ("gate", "up")}
        shapes |= {f"{layer}.mlp.down_proj.weight": (hidden, wide)}
        shapes |= {f"{layer}.{part}_layernorm.weight": (hidden,) for part in ("input", "post_attention")}
    shapes["model.norm.weight"] = (hidden,)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": wide,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 64,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }
    torch.manual_seed(0)
    base = {name: (torch.randn(shape) * 0.02).bfloat16() for name, shape in shapes.items()}
    for number in range(count + 1):
        folder = root / (f"m{number}" if number else "base")
        folder.mkdir(parents=True)
        moved = {
            name: (value.float() + 0.002 * torch.randn(value.shape)).bfloat16() if number else value
            for name, value in base.items()
        }
        save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config))


def models_of(root: Path, method: str) -> list[Path]:
    """Return the models that a method merges."""
    count = 2 if method == "slerp" else len(list(root.glob("m[0-9]")))
    return [root / f"m{number}" for number in range(1, count + 1)]


def params_of(root: Path, method: str) -> dict[str, Any]:
    """Return cuvee's parameters, weights for the models that there are."""
    params = dict(METHODS[method][0])
    if "weights" in params:
        params["weights"] = [params["weights"][number % 4] for number in range(len(models_of(root, method)))]
    return params


def ours(root: Path, method: str, out: Path, dtype: str, threads: int = 0) -> dict[str, float]:
    """Run `cuvee merge`; return whole-process and merge-alone seconds."""
    params = [f"{key}={json.dumps(value)}" for key, value in params_of(root, method).items()]
    command = [sys.executable, "-m", "cuvee", "merge", method, *map(str, models_of(root, method)), *params]
    command += [f"dtype={dtype}", "--base", str(root / "base"), "--out", str(out), "--json"]
    return measured([*command, "--threads", str(threads)])


def theirs(python: str, root: Path, method: str, out: Path, dtype: str, *more_arguments: str) -> dict[str, float]:
    """Run mergekit on the same; ``stable`` lets it keep the first of equal magnitudes."""
    models = models_of(root, method)
    weights = params_of(root, method).get("weights", [1.0] * len(models))
    more = METHODS[method][1]
    each = [
        {
            "model": str(model),
            "parameters": {"weight": weight} | {k: v for k, v in more.items() if k == "density"},
        }
        for model, weight in zip(models, weights, strict=True)
    ]
    config: dict[str, Any] = {"merge_method": method, "dtype": "float32", "out_dtype": dtype}
    if method == "slerp":
        config |= {"base_model": str(models[0]), "models": [{"model": str(model)} for model in models]}
        config["parameters"] = more
    else:
        config |= {"models": each, "parameters": {k: v for k, v in more.items() if k != "density"}}
        if method != "linear":
            config["base_model"] = str(root / "base")
    path = out.with_suffix(".yaml")
    path.write_text(json.dumps(config))
    return measured([python, "-c", PEER, str(path), str(out), *more_arguments])


def measured(command: list[str]) -> dict[str, float]:
    """Run a command that prints one JSON object last; return its seconds, whole and alone."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:6])} ... failed:\n{done.stderr[-3000:]}")
    told = json.loads(done.stdout[done.stdout.index("{") :])
    return {
        "whole": time.monotonic() - started,
        "whole_cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "alone": told["seconds"],
        "alone_cpu": told["cpu_seconds"],
    }


def compare(one: Path, other: Path) -> str:
    """Say how far two models are from each other."""
    different, total, largest = distance(one, other)
    return f"{different:,} of {total:,} elements differ ({different / total:.2e}), at most by {largest:.2e}"


def distance(one: Path, other: Path) -> tuple[int, int, float]:
    """Return how many elements of two models differ, how many there are, and the largest difference."""
    different = total = 0
    largest = 0.0
    with safe_open(one / "model.safetensors", "pt") as first:
        for file in sorted(other.glob("*.safetensors")):
            with safe_open(file, "pt") as second:
                for name in second.keys():  # noqa: SIM118 - a safetensors file is no mapping
                    a, b = first.get_tensor(name), second.get_tensor(name)
                    different += int((a != b).sum())
                    total += a.numel()
                    largest = max(largest, float((a.float() - b.float()).abs().max()))
    return different, total, largest


def copied(root: Path, models: list[Path]) -> list[float]:
    """Return seconds of copying the models, and of copying and flushing them."""
    found = []
    for flush in (False, True):
        target = root / "copies"
        started = time.monotonic()
        for model in models:
            (target / model.name).mkdir(parents=True)
            subprocess.run(["cp", str(model / "model.safetensors"), str(target / model.name)], check=True)
        if flush:
            subprocess.run(["sync", *(str(target / m.name / "model.safetensors") for m in models)], check=True)
        found.append(time.monotonic() - started)
        shutil.rmtree(target)
    return found


Rows = dict[str, list[dict[str, float]]]


def race(options: argparse.Namespace, root: Path) -> None:
    """Compare results, then times, method by method."""
    size = sum((model / "model.safetensors").stat().st_size for model in models_of(root, "linear"))
    print(f"{len(models_of(root, 'linear'))} models, {size / 1e6:,.0f} MB together; load {os.getloadavg()[0]:.1f}")
    for method in options.methods:
        rows, copies = run_rounds(options, root, method)
        for row in (*rows["cuvee"], *rows["mergekit"]):
            row |= {"start": row["whole"] - row["alone"], "start_cpu": row["whole_cpu"] - row["alone_cpu"]}
        for key in ("whole", "whole_cpu", "start", "start_cpu", "alone", "alone_cpu"):
            told(method, key, rows)
        for text, place in (("cp", 0), ("cp and flush", 1)):
            if copies:
                shares = [pair[place] / row["alone"] for pair, row in zip(copies, rows["cuvee"], strict=True)]
                print(f"  the merge alone reaches {spread(shares)} of the speed of {text} of the same files; aim 0.70")


def run_rounds(options: argparse.Namespace, root: Path, method: str) -> tuple[Rows, list[list[float]]]:
    """Return the seconds of every round, for `linear` those of copies as well; the first round's results compared."""
    rows: Rows = {"cuvee": [], "mergekit": []}
    copies: list[list[float]] = []
    outs = {who: root / f"out-{who}" for who in rows}
    for number in range(options.rounds):
        for out in outs.values():
            shutil.rmtree(out, ignore_errors=True)
        rows["cuvee"].append(ours(root, method, outs["cuvee"], options.dtype, options.threads))
        rows["mergekit"].append(theirs(options.peer, root, method, outs["mergekit"], options.dtype))
        if method == "linear":
            copies.append(copied(root, models_of(root, method)))
        if not number and method != "dare_ties":  # random
            print(f"{method}: {compare(outs['cuvee'], outs['mergekit'])}")
        if not number and method == "ties" and options.stable:
            shutil.rmtree(outs["mergekit"])
            theirs(options.peer, root, method, outs["mergekit"], options.dtype, "stable")
            print(f"{method}, its sort made stable: {compare(outs['cuvee'], outs['mergekit'])}")
    return rows, copies


AIMS = {("linear", "whole"): 3.0, ("linear", "alone"): 1.0, ("ties", "alone"): 3.0, ("dare_ties", "alone"): 3.0}
"""How many times mergekit's speed is wanted; CPU seconds have the same aims."""


def told(method: str, key: str, rows: Rows) -> None:
    """Print seconds of both, and the ratio of each round."""
    mine, peer = ([row[key] for row in rows[who]] for who in ("cuvee", "mergekit"))
    ratios = [other / max(own, 1e-3) for own, other in zip(mine, peer, strict=True)]
    aim = AIMS.get((method, key.removesuffix("_cpu")))
    wanted = f"  aim {aim:g}: {'met' if statistics.median(ratios) >= aim else 'missed'}" if aim else ""
    seconds = f"cuvee {statistics.median(mine):7.2f} s  mergekit {statistics.median(peer):7.2f} s"
    print(f"{method:16} {key:10} {seconds}  ratio {spread(ratios)}{wanted}", flush=True)


def spread(values: list[float]) -> str:
    """Return the median with the least and the largest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def in_process(root: Path, method: str, out: Path, dtype: str) -> dict[str, Any]:
    """Merge in this process, with one thread; return the summary."""
    from cuvee import mergings

    folders = {"models": models_of(root, method), "base": [root / "base"]}
    names = [path.name for paths in folders.values() for path in paths]
    return mergings.write(method, {**params_of(root, method), "dtype": dtype}, folders, names, out, threads=1)


def scaling(options: argparse.Namespace) -> None:
    """Print CPU seconds of the merge alone over bytes read, for models twice as large and twice as many."""
    for method in options.methods:
        for layers, count in ((8, 2), (16, 2), (32, 2), (16, 4), (16, 8)):
            root = options.folder / f"{options.hidden}-{layers}-{options.vocabulary}-{count}"
            if not root.exists():
                make(root, options.hidden, layers, options.vocabulary, count)
            seconds = []
            for _ in range(options.rounds):
                out = root / "out-cuvee"
                shutil.rmtree(out, ignore_errors=True)
                seconds.append(in_process(root, method, out, options.dtype)["cpu_seconds"])
            shutil.rmtree(root / "out-cuvee")
            size = sum((model / "model.safetensors").stat().st_size for model in models_of(root, method))
            each = [one / size * 1e9 for one in seconds]
            print(
                f"{method:10} K = {count}, {size / count / 1e6:6.0f} MB each: {spread(each)} CPU s a GB read",
                flush=True,
            )


def limited(root: Path, megabytes: int) -> None:
    """Merge under a limit on what a process may hold besides mapped files (RLIMIT_DATA), smaller than one model."""
    for method in ("linear", "ties"):
        out = root / "out-limited"
        shutil.rmtree(out, ignore_errors=True)
        params = [f"{key}={json.dumps(value)}" for key, value in params_of(root, method).items()]
        watch = (
            "import sys; from cuvee.cli import main\n"
            "try:\n    main()\n"
            "finally:\n"
            "    lines = dict(line.split(':') for line in open('/proc/self/status') if ':' in line)\n"
            "    print('anonymous', lines['RssAnon'].strip(), 'mapped', lines['RssFile'].strip(),"
            " 'peak with mapped', lines['VmHWM'].strip(), file=sys.stderr)\n"
        )
        command = [sys.executable, "-c", watch, "merge", method, *map(str, models_of(root, method)), *params]
        command += ["--base", str(root / "base"), "--out", str(out), "--threads", "2"]
        limit = megabytes << 20
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda limit=limit: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),  # type: ignore[misc]
        )
        largest = (root / "base" / "model.safetensors").stat().st_size / 2**20
        state = "done" if done.returncode == 0 else f"failed ({done.returncode})"
        print(f"{method}: {state} with at most {megabytes} MiB of data; one model has {largest:,.0f} MiB")
        print("  " + "\n  ".join([*done.stdout.strip().splitlines(), *done.stderr.strip().splitlines()[-2:]]))


def main() -> None:
    """Parse, make the models, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="Python that has mergekit")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/cuvee-merge-speed"))
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16", help="of the result; float32 compares every bit of the sums")
    parser.add_argument("--methods", nargs="+", default=["linear", "ties", "dare_ties"], choices=list(METHODS))
    parser.add_argument("--stable", action="store_true", help="compare ties with a stable sort in mergekit as well")
    parser.add_argument("--threads", type=int, default=0, help="of cuvee; 0 takes all cores")
    parser.add_argument("--scaling", action="store_true", help="CPU seconds by bytes and by models, and end")
    parser.add_argument("--limit", type=int, nargs="?", const=600, help="MiB: merge under a limit and end")
    options = parser.parse_args()
    if options.scaling:
        scaling(options)
        return
    sizes = options.hidden, options.layers, options.vocabulary, options.models
    root = options.folder / "-".join(map(str, sizes))
    if not root.exists():
        make(root, *sizes)
    if options.limit:
        limited(root, options.limit)
    elif options.peer:
        race(options, root)
    else:
        parser.error("name --peer or --limit")


if __name__ == "__main__":
    main()
