"""Several processes train what one does: sums, log, checkpoints, stops. Two processes on the CPU, over gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from safetensors.torch import load_file  # noqa: E402

from cuvee.engine import loop  # noqa: E402
from cuvee.engine.devices import World  # noqa: E402
from cuvee.engine.disk import mark_file  # noqa: E402

from .conftest import RUNTIME, hyper, make_rows, micro_batches, silent  # noqa: E402
from .test_loop import EVERY, ROWS, STEPS, Breaks, Stop, log, run  # noqa: E402

NARROW = replace(RUNTIME, micro_tokens=48)
LORA = {
    "method": "lora",
    "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.0, "targets": "all-linear", "rslora": False},
}
KINDS = ("llama", "llama-tied", "gpt2", "bloom")


@pytest.fixture(scope="module")
def place(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two processes have trained what `many_processes` says."""
    place = tmp_path_factory.mktemp("devices")
    for shard in ("ddp", "fsdp"):  # to be taken up by two
        with pytest.raises(Stop):
            run(model_folder("llama"), place / f"{shard}-resumed", EVERY, rows=Breaks(13, 2))
    folders = json.dumps({kind: str(model_folder(kind)) for kind in KINDS})
    script = Path(__file__).with_name("many_processes.py")
    here = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), folders, str(place)],
            env={
                **os.environ,
                "PYTHONPATH": here,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "CUVEE_RENDEZVOUS": str(place / "rendezvous"),
                "OMP_NUM_THREADS": "1",
            },
        )
        for rank in range(2)
    ]
    codes = [process.wait(timeout=1800) for process in processes]
    errors = [path.read_text() for path in sorted(place.glob("error-*"))]
    assert codes == [0, 0], "\n".join(errors)
    return place


def weights(folder: Path) -> dict[str, Any]:
    return load_file(next(folder.glob("*model.safetensors")))


def far(one: Path, other: Path) -> float:
    """Return the largest difference between two models' weights."""
    first, second = weights(one / "out"), weights(other / "out")
    assert first.keys() == second.keys()
    assert {name: t.dtype for name, t in first.items()} == {name: t.dtype for name, t in second.items()}
    return max(float((first[name].float() - second[name].float()).abs().max()) for name in first)


CASES = {
    "ddp": ("llama", NARROW, {}),
    "fsdp": ("llama", NARROW, {}),
    "ddp-lora": ("llama", NARROW, LORA),
    "fsdp-lora": ("llama", NARROW, LORA),
    "fsdp-gpt2": ("gpt2", NARROW, {"eps": 1e-6}),
    "fsdp-single": ("bloom", NARROW, {"eps": 1e-6}),
    "fsdp-l2_sp": ("llama", NARROW, {"regulariser": {"l2_sp": {"weight": 0.5}}}),
    "ddp-kl": (
        "llama",
        NARROW,
        {"regulariser": {"l2_sp": {"weight": 0.5}, "kl": {"weight": 0.5, "direction": "forward"}}},
    ),
    "fsdp-sgd": ("llama", NARROW, {"optimiser": "sgd", "clip": 0.5}),
}


@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one(name: str, place: Path, model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    kind, runtime, more = CASES[name]
    run(model_folder(kind), tmp_path, runtime, **more)
    ours, theirs = log(tmp_path), log(place / name)
    assert [r["step"] for r in theirs] == [r["step"] for r in ours]
    for one, two in zip(ours, theirs, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
        assert two["supervised_tokens"] == one["supervised_tokens"]
        for part, sums in one["parts"].items():
            assert two["parts"][part]["tokens"] == sums["tokens"]
            assert two["parts"][part]["nll"] == pytest.approx(sums["nll"], rel=1e-5)
        assert two.get("penalties", {}) == pytest.approx(one.get("penalties", {}), rel=1e-3, abs=1e-7)
    # At a learning rate of 1e-3. AdamW makes whole steps of gradients that are rounding alone (a key's bias): eps.
    assert far(tmp_path, place / name) < 1e-4


@pytest.mark.parametrize("shard", ["ddp", "fsdp"])
def test_two_processes_equal_one_in_bfloat16_to_its_rounding(
    shard: str, place: Path, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    run(model_folder("llama-tied"), tmp_path, NARROW, precision="bfloat16")
    for one, two in zip(log(tmp_path), log(place / f"{shard}-bf16"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-2)
    assert far(tmp_path, place / f"{shard}-bf16") < 2e-2


@pytest.mark.parametrize("shard", ["ddp", "fsdp"])
def test_two_processes_equal_one_with_an_adapter_on_a_bfloat16_model(
    shard: str, place: Path, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    run(model_folder("llama"), tmp_path, NARROW, precision="bfloat16", **LORA)
    for one, two in zip(log(tmp_path), log(place / f"{shard}-lora-bf16"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-2)
    found = weights(place / f"{shard}-lora-bf16" / "out")
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}, "the adapter is in float32"
    assert far(tmp_path, place / f"{shard}-lora-bf16") < 2e-2


@pytest.mark.parametrize("shard", ["ddp", "fsdp"])
def test_two_processes_take_up_what_one_has_begun(
    shard: str, place: Path, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    run(model_folder("llama"), tmp_path)
    assert far(tmp_path, place / f"{shard}-resumed") < 1e-4
    assert [r["step"] for r in log(place / f"{shard}-resumed")] == list(range(1, 9))


@pytest.mark.parametrize("shard", ["ddp", "fsdp"])
def test_one_process_takes_up_what_two_have_begun(
    shard: str, place: Path, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    run(model_folder("llama"), tmp_path)
    said: list[Any] = []
    summary = run(model_folder("llama"), place / f"{shard}-broken", EVERY, said.append)
    assert summary["resumed_from"][0] > 0
    assert far(tmp_path, place / f"{shard}-broken") < 1e-4


def test_a_mark_is_the_whole_model_of_that_step(
    place: Path, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    loop.train(
        *(model_folder("llama"), ROWS, STEPS, hyper(), tmp_path / "out", tmp_path / "work", NARROW, silent),
        micro_batches=micro_batches,
        marks=[Fraction(1, 2)],
    )
    expected = load_file(mark_file(tmp_path / "work", Fraction(1, 2)))
    for shard in ("ddp", "fsdp"):
        found = load_file(mark_file(place / shard / "work", Fraction(1, 2)))
        assert found.keys() == expected.keys()
        assert max(float((found[name] - expected[name]).abs().max()) for name in found) < 1e-4


def test_one_process_alone_writes(place: Path) -> None:
    assert sorted(p.name for p in (place / "rank0").iterdir()) == ["out", "work"]
    assert [p for p in (place / "rank1").rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("shard", ["ddp", "fsdp"])
def test_a_loss_that_is_no_number_stops_all_and_leaves_the_evidence(shard: str, place: Path) -> None:
    evidence = json.loads((place / f"{shard}-nan" / "work" / "failure.json").read_text())
    assert evidence["step"] == 2
    assert evidence["rows"] == STEPS[1]


def test_one_process_asked_to_stop_stops_all_with_a_checkpoint(place: Path) -> None:
    (folder,) = (place / "fsdp-stopped" / "work").glob("checkpoint-*")
    assert folder.name == "checkpoint-7"


def test_one_process_without_memory_makes_all_take_smaller_passes(
    place: Path, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    run(model_folder("llama"), tmp_path)
    (shrunk, *_) = json.loads((place / "ddp-memory" / "work" / "finished.json").read_text())["summary"]["out_of_memory"]
    assert shrunk["from"] == 200
    assert far(tmp_path, place / "ddp-memory") < 1e-4


def test_divided_weights_start_again_with_smaller_passes(place: Path, model_folder: Callable[[str], Path]) -> None:
    noted = json.loads((place / "fsdp-memory" / "work" / "out_of_memory.json").read_text())
    summary = run(model_folder("llama"), place / "fsdp-memory", replace(RUNTIME, micro_tokens=200))
    assert summary["out_of_memory"] == noted


def test_shares_are_whole_and_level() -> None:
    rows = make_rows(50, longest=100)
    worlds = [World(rank, 4) for rank in range(4)]
    shares = [world.share(rows) for world in worlds]
    assert sorted(i for share in shares for i in share) == list(range(len(rows)))
    loads = [sum(len(rows[i].ids) for i in share) for share in shares]
    assert max(loads) - min(loads) <= max(len(row.ids) for row in rows)
    assert [worlds[0].share(rows, rank) for rank in range(4)] == shares
    assert World().share(rows) == list(range(len(rows)))
