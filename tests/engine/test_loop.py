"""The training loop: sums that add up, a log that is true, resumes that leave no trace, faults that stop it."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from cuvee.engine import attention, for_model, loop  # noqa: E402
from cuvee.engine.disk import Background  # noqa: E402
from cuvee.errors import ModelError, StageFailed, UsageError  # noqa: E402
from cuvee.protocols import TokenRow  # noqa: E402

from .conftest import RUNTIME, VOCABULARY, hyper, make_rows, micro_batches, silent  # noqa: E402

ROWS = make_rows(24)
STEPS = [list(range(i, i + 6)) for i in range(0, 24, 6)] * 2
EVERY = replace(RUNTIME, checkpoint_steps=1)


METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {
        "method": "lora",
        "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.1, "targets": "all-linear", "rslora": False},
    },
    "held": {"regulariser": {"l2_sp": {"weight": 0.1}, "kl": {"weight": 0.1, "direction": "reverse"}}},
}


class Stop(Exception):
    """An interruption."""


def run(folder: Path, place: Path, runtime: Any = RUNTIME, progress: Any = silent, rows: Any = ROWS, **hy: Any) -> Any:
    return loop.train(
        folder, rows, STEPS, hyper(**hy), place / "out", place / "work", runtime, progress, micro_batches=micro_batches
    )


def weights(place: Path) -> bytes:
    return (place / "out" / "model.safetensors").read_bytes()


def log(place: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (place / "work" / "log.jsonl").read_text().splitlines()]


def losses(place: Path) -> bytes:
    return (place / "work" / "losses.f32").read_bytes()


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


class Breaks:
    """Rows that raise when row `at` is asked for the `times`-th time."""

    def __init__(self, at: int, times: int) -> None:
        self.at, self.left = at, times

    def __len__(self) -> int:
        return len(ROWS)

    def __getitem__(self, index: int) -> TokenRow:
        if index == self.at:
            self.left -= 1
            if self.left == 0:
                raise Stop
        return ROWS[index]


@pytest.fixture(scope="module")
def whole(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A training that nothing interrupted, and its summary."""
    place = tmp_path_factory.mktemp("whole")
    return place, run(model_folder("llama"), place)


def test_the_log_has_every_step_and_its_parts_sum_to_the_whole(whole: tuple[Path, Any]) -> None:
    place, summary = whole
    records = log(place)
    assert [r["step"] for r in records] == list(range(1, 9))
    assert [r["epoch"] for r in records] == [1, 1, 1, 1, 2, 2, 2, 2]
    for record in records:
        assert sum(p["tokens"] for p in record["parts"].values()) == record["supervised_tokens"]
        total = sum(p["nll"] for p in record["parts"].values())
        assert total == pytest.approx(record["loss"] * record["supervised_tokens"], rel=1e-9)
    assert summary["supervised_tokens"] == sum(r["supervised_tokens"] for r in records)
    assert summary["total_tokens"] == 2 * sum(len(row.ids) for row in ROWS)
    assert summary["first_loss"] == records[0]["loss"]
    assert summary["final_loss"] == records[-1]["loss"] < records[0]["loss"]
    assert summary["layout"] == "flat"
    assert summary["resumed_from"] == []
    assert sorted(summary["loss_by_part"]) == ["0", "1", "2"]


def test_the_result_is_an_ordinary_folder_with_the_source_s_own_tokenizer(
    whole: tuple[Path, Any], model_folder: Callable[[str], Path]
) -> None:
    from transformers import AutoModelForCausalLM

    out = whole[0] / "out"
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (out / name).read_bytes() == (model_folder("llama") / name).read_bytes()
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.float32
    assert "cuvee" not in (out / "config.json").read_text()
    assert not list(out.parent.glob("*.partial"))


def test_a_second_training_has_the_same_bits(
    whole: tuple[Path, Any], model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    run(model_folder("llama"), tmp_path)
    assert weights(tmp_path) == weights(whole[0])


@pytest.mark.parametrize(("kind", "precision"), [("llama", "float32"), ("llama-tied", "bfloat16"), ("gpt2", "float32")])
def test_a_resumed_training_has_the_same_bits(
    kind: str, precision: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(model_folder(kind), whole, precision=precision)
    with pytest.raises(Stop):
        run(model_folder(kind), broken, EVERY, rows=Breaks(13, 2), precision=precision)
    assert not (broken / "out").exists()
    said: list[Any] = []
    summary = run(model_folder(kind), broken, EVERY, said.append, precision=precision)
    assert summary["resumed_from"]
    assert 0 < summary["resumed_from"][0] < 8
    assert "resumed from step" in said[0]["note"]
    assert weights(broken) == weights(whole)
    assert without_times(log(broken)) == without_times(log(whole))
    assert losses(broken) == losses(whole)
    assert summary["supervised_tokens"] == sum(r["supervised_tokens"] for r in log(whole))


def test_dropout_is_resumed_too(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from .conftest import configuration

    config = configuration("gpt2")
    config.resid_pdrop = config.attn_pdrop = config.embd_pdrop = 0.2
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    run(tmp_path / "model", tmp_path / "whole")
    with pytest.raises(Stop):
        run(tmp_path / "model", tmp_path / "broken", EVERY, rows=Breaks(13, 2))
    assert run(tmp_path / "model", tmp_path / "broken", EVERY)["resumed_from"]
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")


def test_the_log_is_cut_back_to_the_checkpoint(
    whole: tuple[Path, Any], model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    every_third = replace(RUNTIME, checkpoint_steps=3)
    with pytest.raises(Stop):
        run(model_folder("llama"), tmp_path, every_third, rows=Breaks(6, 2))
    before = log(tmp_path)
    assert len(before) == 5
    with open(tmp_path / "work" / "log.jsonl", "a") as handle:
        handle.write('{"step": 6, "loss": 9')  # a line cut off by a kill
    summary = run(model_folder("llama"), tmp_path, every_third)
    assert summary["resumed_from"] == [3]
    assert without_times(log(tmp_path)) == without_times(log(whole[0]))
    assert weights(tmp_path) == weights(whole[0])


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are written while the training waits, so that it is known which there are."""
    monkeypatch.setattr(Background, "start", lambda self, write: write())


@pytest.mark.usefixtures("at_once")
def test_the_newest_checkpoint_and_the_one_before_are_kept_and_hold_no_pickle(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(Stop):
        run(model_folder("llama"), tmp_path, EVERY, rows=Breaks(13, 2))
    folders = sorted((tmp_path / "work").glob("checkpoint-*"))
    assert [folder.name for folder in folders] == ["checkpoint-5", "checkpoint-6"]
    for folder in folders:
        names = sorted(p.name for p in folder.iterdir())
        assert names == ["checkpoint.json", "model.safetensors", "state.safetensors"]


def test_a_finished_training_leaves_no_checkpoint_and_is_not_done_again(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    first = run(model_folder("llama"), tmp_path, EVERY)
    assert sorted(p.name for p in (tmp_path / "work").iterdir()) == [
        "checks.json",
        "finished.json",
        "log.jsonl",
        "losses.f32",
    ]
    said: list[Any] = []
    assert run(model_folder("llama"), tmp_path, EVERY, said.append) == first
    assert not said
    assert run(model_folder("llama"), tmp_path, EVERY, learning_rate=1e-4) != first


def test_a_checkpoint_of_another_training_is_not_resumed(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(Stop):
        run(model_folder("llama"), tmp_path, EVERY, rows=Breaks(13, 2))
    said: list[Any] = []
    summary = run(model_folder("llama"), tmp_path, EVERY, said.append, learning_rate=5e-4)
    assert summary["resumed_from"] == []
    assert "another training" in said[0]["note"]


def test_a_resume_under_another_runtime_is_said(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(Stop):
        run(model_folder("llama"), tmp_path, EVERY, rows=Breaks(13, 2))
    said: list[Any] = []
    run(model_folder("llama"), tmp_path, replace(EVERY, micro_tokens=40), said.append)
    assert "micro_tokens 64 -> 40" in said[0]["note"]


def test_a_resume_by_one_process_of_what_several_began_is_said(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        how = loop.Training._how
        patch.setattr(loop.Training, "_how", lambda self: how(self) | {"processes": 2, "shard": "fsdp"})
        with pytest.raises(Stop):
            run(model_folder("llama"), tmp_path, EVERY, rows=Breaks(13, 2))
    said: list[Any] = []
    run(model_folder("llama"), tmp_path, EVERY, said.append)
    assert "another runtime (processes 2 -> 1, shard fsdp -> none)" in said[0]["note"]


def test_a_resume_where_rows_can_no_longer_lie_flat_takes_them_one_by_one(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Stop):
        run(model_folder("llama"), tmp_path, EVERY, rows=Breaks(13, 2))
    monkeypatch.setattr(attention, "supports", lambda model: "another torch")
    said: list[Any] = []
    summary = run(model_folder("llama"), tmp_path, EVERY, said.append)
    assert summary["resumed_from"]
    assert summary["layout"] == "single"
    assert {"note": "one example a forward pass: another torch"} in said


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.append({tests!r})
from tests.engine import test_loop as t
class Slow(t.Breaks):
    def __getitem__(self, index):
        time.sleep(float(sys.argv[3]))
        return super().__getitem__(index)
t.run(Path(sys.argv[1]), Path(sys.argv[2]), t.EVERY, rows=Slow(-1, 0))
"""


def test_kill_9_and_resume_leaves_no_trace(
    whole: tuple[Path, Any], model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    script = SCRIPT.format(tests=str(Path(__file__).parents[2]))
    command = [sys.executable, "-c", script, str(model_folder("llama")), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([*command, "0.02"], env=environment)
    limit = time.monotonic() + 120
    while not list((tmp_path / "work").glob("checkpoint-3")) and time.monotonic() < limit:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    summary = run(model_folder("llama"), tmp_path, EVERY)
    assert summary["resumed_from"][0] >= 3
    assert weights(tmp_path) == weights(whole[0])
    assert without_times(log(tmp_path)) == without_times(log(whole[0]))
    assert losses(tmp_path) == losses(whole[0])


def test_a_loss_that_is_not_finite_stops_with_the_rows_named(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "broken"
    shutil.copytree(model_folder("llama"), folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][ROWS[9].ids[0]] = math.nan
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    clean = [TokenRow([i for i in row.ids if i != ROWS[9].ids[0]] or [5, 6], [(1, 2)]) for row in ROWS]
    clean[9] = ROWS[9]
    with pytest.raises(StageFailed, match=r"step 2 of 8: the loss or the gradient is not finite; rows 6, 7, 8, 9"):
        run(folder, tmp_path, EVERY, rows=clean)
    evidence = json.loads((tmp_path / "work" / "failure.json").read_text())
    assert evidence["rows"] == STEPS[1]
    assert (tmp_path / "work" / "checkpoint-1").is_dir()
    assert not (tmp_path / "out").exists()


def test_a_step_with_nothing_to_learn_is_refused(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    rows = [TokenRow(row.ids, [(0, 1)]) for row in ROWS]
    with pytest.raises(StageFailed, match="no supervised token"):
        run(model_folder("llama"), tmp_path, rows=rows)


def test_tokens_beyond_the_vocabulary_and_rows_beyond_the_positions_are_refused(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=f"token {VOCABULARY}, the model's vocabulary ends at {VOCABULARY - 1}"):
        run(model_folder("llama"), tmp_path, rows=[TokenRow([1, VOCABULARY], [(1, 2)])] * 24)
    with pytest.raises(ModelError, match="positions for 128"):
        run(model_folder("gpt2"), tmp_path, rows=[TokenRow([5] * 129, [(1, 2)])] * 24)


def test_rotary_models_take_rows_beyond_their_configured_length(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    assert run(model_folder("llama"), tmp_path, rows=[TokenRow([5, 6] * 70, [(1, 140)])] * 24)["layout"] == "flat"


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447]),
    ],
)
def test_the_learning_rate_warms_up_then_follows_its_schedule(schedule: str, expected: list[float]) -> None:
    from cuvee.engine.optimiser import learning_rate

    settings = hyper(schedule=schedule, learning_rate=1.0, warmup=0.3)  # ceil(1.8) = 2 steps
    assert [learning_rate(i, 6, settings) for i in range(6)] == pytest.approx(expected, abs=1e-6)


def test_impossible_settings_are_refused(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'cosine'"):
        run(model_folder("llama"), tmp_path, schedule="cosin")
    with pytest.raises(ModelError, match="bfloat16"):
        run(model_folder("llama"), tmp_path, precision="float16")


def test_progress_is_told_speed_and_time_left(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    said: list[Any] = []
    run(model_folder("llama"), tmp_path, progress=said.append)
    assert {"step", "steps", "loss", "tokens", "tokens_per_second", "seconds_left"} <= said[-1].keys()
    assert said[-1]["step"] == said[-1]["steps"] == 8


def test_rows_may_hold_arrays_and_the_project_s_own_splitter_gives_the_same(
    whole: tuple[Path, Any], model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    import numpy as np

    from cuvee.data import batches

    rows = [TokenRow(np.asarray(r.ids, np.int32), np.asarray(r.spans, np.int32), np.int16(r.part)) for r in ROWS]  # type: ignore[arg-type]
    steps = [np.asarray(step) for step in STEPS]
    summary = loop.train(
        model_folder("llama"),
        rows,
        steps,  # type: ignore[arg-type]
        hyper(),
        tmp_path / "out",
        tmp_path / "work",
        RUNTIME,
        silent,
        micro_batches=batches.micro_batches,
    )
    assert summary["final_loss"] == pytest.approx(whole[1]["final_loss"], rel=1e-5)


def test_decay_spares_vectors_and_bfloat16_keeps_small_updates(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """At a rate far below bfloat16's resolution the float32 copies move all the same."""
    assert for_model(model_folder("llama")).name == "torch"
    from cuvee.engine import loading
    from cuvee.engine.optimiser import Optimiser

    model = loading.load(model_folder("llama"), "bfloat16", torch.device("cpu")).model
    optimiser = Optimiser(model, hyper(weight_decay=0.5))
    name = "model.layers.0.self_attn.q_proj.weight"
    before = {n: m.detach().clone() for n, m in optimiser.masters.items()}
    for _ in range(3):
        for weight in optimiser.weights.values():
            weight.grad = torch.ones_like(weight)
        optimiser.gather()
        optimiser.step(1e-7)
    moved = before[name] - optimiser.masters[name].detach()
    assert float(moved.mean()) == pytest.approx(3e-7, rel=0.1)
    decays = {g["weight_decay"]: {p.ndim for p in g["params"]} for g in optimiser.rule.param_groups}
    assert decays == {0.5: {2}, 0.0: {1}}


def test_the_rate_of_wsd_warms_up_stays_and_falls() -> None:
    from cuvee.engine.optimiser import learning_rate

    settings = hyper(schedule="wsd", learning_rate=1.0, warmup=0.2, decay=0.4)  # 2 up, 4 down
    rates = [learning_rate(i, 10, settings) for i in range(10)]
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])


@pytest.mark.parametrize("optimiser", ["sgd", "adafactor"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_other_optimisers_learn_and_are_resumed_bit_by_bit(
    optimiser: str, precision: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    settings = {"optimiser": optimiser, "precision": precision, "learning_rate": 0.02}
    summary = run(model_folder("llama"), whole, **settings)
    assert summary["final_loss"] < summary["first_loss"]
    with pytest.raises(Stop):
        run(model_folder("llama"), broken, EVERY, rows=Breaks(13, 2), **settings)
    assert run(model_folder("llama"), broken, EVERY, **settings)["resumed_from"]
    assert weights(broken) == weights(whole)


def test_an_unknown_optimiser_is_refused(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'adamw'"):
        run(model_folder("llama"), tmp_path, optimiser="adam")


AGAIN = replace(RUNTIME, checkpoint_activations=True)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "neox", "gemma2", "bloom"])
def test_activations_computed_twice_change_no_bit(
    kind: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    run(model_folder(kind), tmp_path / "kept")
    run(model_folder(kind), tmp_path / "again", AGAIN)
    assert weights(tmp_path / "again") == weights(tmp_path / "kept")


def test_activations_computed_twice_are_not_kept(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    kept = {}
    for name, runtime in (("all", RUNTIME), ("few", AGAIN)):
        held: list[int] = []

        def pack(tensor: Any, held: list[int] = held) -> Any:
            held.append(tensor.untyped_storage().nbytes())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            run(model_folder("llama"), tmp_path / name, runtime)
        kept[name] = sum(held)
    assert kept["few"] < 0.5 * kept["all"]
