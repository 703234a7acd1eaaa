"""What goes in is checked before anything is written; what comes out is whole, or is not there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cuvee.errors import ModelError, UsageError
from cuvee.merging import merge, streaming
from cuvee.merging.noise import uniform
from tests.merging.models import CONFIG, folder, merged, method, near, read, tensors

BASE = tensors(0)


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    return [folder(tmp_path / name, near(BASE, seed)) for name, seed in (("a", 1), ("b", 2))]


def refused(models: list[Path], name: str = "linear", base: Path | None = None, **params: Any) -> str:
    """Return what is said when a merge is refused; nothing may have been written."""
    before = sorted(models[0].parent.rglob("*"))
    with pytest.raises((ModelError, UsageError)) as caught:
        merge.prepare(merge.Inputs(tuple(models), base), method(name, **params))
    assert sorted(models[0].parent.rglob("*")) == before
    return str(caught.value).replace(str(models[0].parent), "")


class TestRefused:
    def test_a_missing_tensor(self, pair: list[Path]) -> None:
        folder(pair[1], {k: v for k, v in near(BASE, 2).items() if k != "layers.0.mlp.weight"})
        assert "/b: lacks tensor layers.0.mlp.weight, which /a has" in refused(pair)

    def test_a_further_tensor(self, pair: list[Path]) -> None:
        folder(pair[1], {**near(BASE, 2), "layers.2.mlp.weight": torch.zeros(6, 4)})
        assert "/a: lacks tensor layers.2.mlp.weight, which /b has" in refused(pair)

    def test_another_shape(self, pair: list[Path]) -> None:
        folder(pair[1], {**near(BASE, 2), "norm.weight": torch.zeros(5)})
        assert "tensor norm.weight is [5] in /b and [4] in /a" in refused(pair)

    def test_another_architecture(self, pair: list[Path]) -> None:
        folder(pair[1], BASE, model_type="other")
        assert "/b and /a are of different architectures (model_type other and toy)" in refused(pair)

    @pytest.mark.parametrize("size", ["x", -1, True, 2.5])
    def test_a_vocabulary_size_that_is_no_number(self, pair: list[Path], size: Any) -> None:
        folder(pair[1], near(BASE, 2), vocab_size=size)
        assert f"/b: vocab_size in config.json is {size!r} and no number of tokens" in refused(pair)

    def test_a_setting_that_changes_what_the_weights_mean(self, pair: list[Path]) -> None:
        folder(pair[0], near(BASE, 1), num_attention_heads=4)
        folder(pair[1], near(BASE, 2), num_attention_heads=2)
        assert "use equal weights differently (num_attention_heads 2 and 4" in refused(pair)

    def test_another_dtype_unless_the_results_is_named(self, pair: list[Path], tmp_path: Path) -> None:
        folder(pair[1], near(tensors(0, dtype=torch.bfloat16), 2))
        assert "tensor embed.weight is BF16 in /b and F32 in /a; say what the result shall be" in refused(pair)
        found = merged(pair, tmp_path / "out", "linear", dtype="bfloat16")
        assert {value.dtype for value in found.values()} == {torch.bfloat16}
        assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"

    def test_whole_numbers_that_differ(self, pair: list[Path], tmp_path: Path) -> None:
        for number, path in enumerate(pair):
            folder(path, {**near(BASE, 1), "position_ids": torch.arange(3) + number})
        assert "tensor position_ids holds whole numbers that differ between /a and /b" in refused(pair)
        folder(pair[0], {**near(BASE, 1), "position_ids": torch.arange(3) + 1})
        assert merged(pair, tmp_path / "out", "linear")["position_ids"].tolist() == [1, 2, 3]

    @pytest.mark.parametrize("left", [4, 200, -1])
    def test_a_truncated_file(self, pair: list[Path], left: int) -> None:
        path = pair[1] / "model.safetensors"
        path.write_bytes(path.read_bytes()[:left])
        said = refused(pair)
        assert "/b/model.safetensors: is cut short" in said
        assert left > 0 or "within tensor" in said

    def test_a_header_that_is_no_json(self, pair: list[Path]) -> None:
        path = pair[1] / "model.safetensors"
        data = bytearray(path.read_bytes())
        data[20:40] = b"\xff" * 20
        path.write_bytes(bytes(data))
        assert "/b/model.safetensors: its header cannot be read" in refused(pair)

    def test_a_shard_that_is_not_there(self, pair: list[Path]) -> None:
        names = {"embed.weight": "model-00001-of-00002.safetensors", "norm.weight": "model-00002-of-00002.safetensors"}
        (pair[1] / "model.safetensors").rename(pair[1] / "model-00001-of-00002.safetensors")
        (pair[1] / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
        assert "shard model-00002-of-00002.safetensors is missing, with norm.weight" in refused(pair)

    def test_a_tensor_that_a_shard_lacks_though_the_index_names_it(self, pair: list[Path]) -> None:
        for path in pair:  # all models lack it, so none tells on the other
            (path / "model.safetensors").rename(path / "model-00001-of-00001.safetensors")
            listed = dict.fromkeys([*BASE, "layers.2.mlp.weight"], "model-00001-of-00001.safetensors")
            (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
        assert "/a/model-00001-of-00001.safetensors: lacks tensor layers.2.mlp.weight" in refused(pair)

    def test_an_index_without_its_map(self, pair: list[Path]) -> None:
        (pair[1] / "model.safetensors").rename(pair[1] / "model-00001-of-00001.safetensors")
        (pair[1] / "model.safetensors.index.json").write_text("[1]")
        assert "/b/model.safetensors.index.json: cannot be read" in refused(pair)

    def test_a_base_that_is_named_for_nothing_and_is_not_there(self, pair: list[Path], tmp_path: Path) -> None:
        assert "/nothing: no such folder" in refused(pair, base=tmp_path / "nothing")

    def test_pickled_weights(self, pair: list[Path]) -> None:
        (pair[1] / "model.safetensors").rename(pair[1] / "pytorch_model.bin")
        assert "/b: holds pickled weights only, which cuvee never opens" in refused(pair)

    def test_a_quantised_model(self, pair: list[Path]) -> None:
        folder(pair[1], BASE, quantization_config={"bits": 4})
        assert "/b: is quantised" in refused(pair)

    def test_a_folder_that_is_no_model(self, pair: list[Path], tmp_path: Path) -> None:
        assert "/nothing: no such folder; name a Hugging Face folder" in refused([pair[0], tmp_path / "nothing"])
        (tmp_path / "empty").mkdir()
        assert "/empty: has no config.json" in refused([pair[0], tmp_path / "empty"])
        (tmp_path / "empty" / "adapter_config.json").write_text("{}")
        assert "/empty: is a LoRA adapter and no whole model" in refused([pair[0], tmp_path / "empty"])

    @pytest.mark.parametrize(
        ("name", "params", "message"),
        [
            ("linear", {"weights": [1.0]}, "weights has 1 values for 2 models"),
            ("linear", {"weights": [0.0, 0.0]}, "all weights are zero"),
            ("linear", {"weights": [1.0, -1.0]}, "the weights add up to zero"),
            ("linear", {"tensors": {"*.mlp.*": {"weights": [1.0]}}}, "weights has 1 values for 2 models"),
            ("linear", {"tensors": {"*.attention.*": {"weights": [1.0, 2.0]}}}, "'*.attention.*' fits no tensor"),
            ("linear", {"tensors": {"*": {"weight": [1.0, 2.0]}}}, "Did you mean 'weights'?"),
            ("ties", {}, "needs the base"),
            ("task_arithmetic", {}, "needs the base"),
            ("selective", {}, "needs the base"),
            ("ties", {"density": [0.5]}, "density has 1 values for 2 models"),
            ("wise_ft", {}, "merges exactly 1 model, got 2"),
            ("fisher", {}, "needs 2 of Fisher information"),
        ],
    )
    def test_parameters_that_do_not_fit(
        self, pair: list[Path], name: str, params: dict[str, Any], message: str
    ) -> None:
        assert message in refused(pair, name, **params)

    def test_a_density_that_differs_where_the_whole_model_is_cut_at_once(self) -> None:
        with pytest.raises(UsageError, match="density cannot differ by tensor"):
            method("ties", scope="model", tensors={"*": {"density": 0.5}})

    def test_a_folder_that_exists(self, pair: list[Path]) -> None:
        prepared = merge.prepare(merge.Inputs(tuple(pair)), method("linear"))
        with pytest.raises(UsageError, match="exists; name another folder"):
            merge.write(prepared, pair[1])

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_model_that_holds_no_number_somewhere(self, pair: list[Path], tmp_path: Path, value: float) -> None:
        folder(pair[1], {**near(BASE, 2), "norm.weight": torch.tensor([1.0, value, 1.0, 1.0])})
        prepared = merge.prepare(merge.Inputs(tuple(pair)), method("linear"))
        with pytest.raises(ModelError, match=r"/b: tensor norm.weight holds NaN or infinity"):
            merge.write(prepared, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_result_that_float16_cannot_hold(self, pair: list[Path], tmp_path: Path) -> None:
        asked = method("linear", weights=[1e6, 1.0], normalize=False, dtype="float16")
        prepared = merge.prepare(merge.Inputs(tuple(pair)), asked)
        with pytest.raises(ModelError, match=r"holds a number beyond float16, whose largest is 65,504"):
            merge.write(prepared, tmp_path / "out")
        assert not list(tmp_path.glob("out*")), "what was written is gone"

    def test_fisher_weights_that_could_cancel(self) -> None:
        with pytest.raises(UsageError, match="greater than or equal to 0"):
            method("fisher", weights=[1.0, -1.0])

    def test_a_disk_that_is_too_small(self, pair: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
        prepared = merge.prepare(merge.Inputs(tuple(pair)), method("linear"))
        with pytest.raises(UsageError, match="free space or name a folder elsewhere"):
            merge.write(prepared, tmp_path / "out")
        assert not list(tmp_path.glob("out*"))


def test_shards_and_their_index_are_what_transformers_reads(pair: list[Path], tmp_path: Path) -> None:
    found = merged(pair, tmp_path / "out", "linear", shard_bytes=150)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(found)
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in found.values())
    assert sorted(set(index["weight_map"].values())) == [
        path.name for path in sorted((tmp_path / "out").glob("*.safetensors"))
    ]
    # What was written in shards can be merged again.
    again = merged([tmp_path / "out"], tmp_path / "again", "linear")
    assert all(torch.equal(again[name], found[name]) for name in found)


def test_tokenizer_and_generation_settings_are_the_first_models(pair: list[Path], tmp_path: Path) -> None:
    for name in ("tokenizer_config.json", "generation_config.json", "chat_template.jinja", "merges.txt"):
        (pair[0] / name).write_text(f"{name} of a")
    (pair[0] / "trainer_state.json").write_text("not the model's")
    (pair[0] / "pytorch_model.bin").write_text("not the model's")
    merged(pair, tmp_path / "out", "linear")
    assert (tmp_path / "out" / "merges.txt").read_text() == "merges.txt of a"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "model.safetensors",
        "tokenizer_config.json",
    ]


def test_settings_of_other_models_that_are_left_out_are_told(pair: list[Path]) -> None:
    for path, text in zip(pair, ("{{ a }}", "{{ b }}"), strict=True):
        (path / "chat_template.jinja").write_text(text)
        (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "</s>"}}))
    (pair[0] / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "transformers_version": "4.40"}))
    (pair[1] / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "transformers_version": "5.23"}))
    (pair[1] / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    prepared = merge.prepare(merge.Inputs(tuple(pair), names=("A", "B")), method("linear"))
    assert prepared.notes == ("B: left out: its chat template; the result has A's",)


def test_a_model_with_code_of_its_own_keeps_it(pair: list[Path], tmp_path: Path) -> None:
    for path in pair:
        (path / "modeling_toy.py").write_text("")
        (path / "sentencepiece.bpe.model").write_text("")
    merged(pair, tmp_path / "plain", "linear")
    assert not (tmp_path / "plain" / "modeling_toy.py").exists()
    assert (tmp_path / "plain" / "sentencepiece.bpe.model").exists()
    config = {**CONFIG, "auto_map": {"AutoModel": "modeling_toy.Toy"}, "_name_or_path": "/home/me/a"}
    (pair[0] / "config.json").write_text(json.dumps(config))
    merged(pair, tmp_path / "out", "linear")
    assert (tmp_path / "out" / "modeling_toy.py").exists()
    assert "/home/me" not in (tmp_path / "out" / "config.json").read_text(), "a folder of another machine"


class TestVocabularies:
    WORDS = tuple(f"w{number}" for number in range(12))

    def test_a_token_that_a_narrower_base_lacks_stays_as_the_first_model_has_it(self, tmp_path: Path) -> None:
        """Rounded to the base's bfloat16 the row would differ from itself, and be moved."""
        small = {name: value.bfloat16() for name, value in BASE.items()}
        small["embed.weight"] = small["embed.weight"][:11]
        base = folder(tmp_path / "base", small, list(self.WORDS[:11]), vocab_size=11)
        model = folder(tmp_path / "a", near(BASE, 1), list(self.WORDS))
        found = merged([model], tmp_path / "out", "task_arithmetic", base=base, scale=5.0)["embed.weight"]
        assert torch.equal(found[11], near(BASE, 1)["embed.weight"][11])
        assert not torch.equal(found[10], near(BASE, 1)["embed.weight"][10])

    def test_a_token_that_a_model_lacks_has_no_fisher_information_there(self, tmp_path: Path) -> None:
        contents = [near(BASE, seed, 1.0) for seed in (1, 2)]
        contents[1]["embed.weight"] = contents[1]["embed.weight"][:11]
        words = [list(self.WORDS), list(self.WORDS[:11]), list(self.WORDS)]
        contents.append(near(BASE, 3, 1.0))
        models = [
            folder(tmp_path / f"m{i}", one, known, vocab_size=len(known))
            for i, (one, known) in enumerate(zip(contents, words, strict=True))
        ]
        ones = [{name: torch.ones_like(value) for name, value in one.items()} for one in contents]
        ones[1]["embed.weight"][0] = 1e9  # the row that must not stand for the missing one
        extras = tuple(folder(tmp_path / f"f{i}", one) for i, one in enumerate(ones))
        found = merged(models, tmp_path / "out", "fisher", extras=extras)["embed.weight"]
        torch.testing.assert_close(found[11], (contents[0]["embed.weight"] + contents[2]["embed.weight"])[11] / 2)

    def test_rows_are_matched_by_token_and_missing_ones_are_the_references(self, tmp_path: Path) -> None:
        first, second = near(BASE, 1), near(BASE, 2)
        turned = [*self.WORDS[:10][::-1], "other"]  # 11 rows: w10 and w11 are lacking
        second["embed.weight"] = second["embed.weight"][:11]
        one = folder(tmp_path / "a", first, list(self.WORDS))
        other = folder(tmp_path / "b", second, turned, vocab_size=11)
        prepared = merge.prepare(merge.Inputs((one, other), names=("A", "B")), method("linear"))
        assert prepared.notes == (
            "B: 10 of A's 12 tokens are matched by their text; the 2 it lacks take A's rows, its own 1 are left out",
        )
        found = merged([one, other], tmp_path / "out", "linear")["embed.weight"]
        expected = first["embed.weight"].clone()
        for row in range(10):
            expected[row] = (expected[row] + second["embed.weight"][9 - row]) / 2
        torch.testing.assert_close(found, expected)

    def test_rows_that_only_pad_are_no_other_vocabulary(self, tmp_path: Path) -> None:
        padded = {**near(BASE, 2), "embed.weight": torch.randn(16, 4)}
        one = folder(tmp_path / "a", near(BASE, 1), list(self.WORDS))
        other = folder(tmp_path / "b", padded, list(self.WORDS), vocab_size=16)
        found = merged([one, other], tmp_path / "out", "linear")["embed.weight"]
        torch.testing.assert_close(found, (near(BASE, 1)["embed.weight"] + padded["embed.weight"][:12]) / 2)

    def test_without_tokenizers_another_size_is_refused(self, pair: list[Path]) -> None:
        folder(pair[1], {**near(BASE, 2), "embed.weight": torch.randn(16, 4)}, vocab_size=16)
        assert "tensor embed.weight is [16, 4] in /b and [12, 4] in /a" in refused(pair)


class TestTiedEmbeddings:
    def test_a_copy_of_the_head_that_is_tied_everywhere_is_left_out(self, pair: list[Path], tmp_path: Path) -> None:
        folder(pair[1], {**near(BASE, 2), "lm_head.weight": near(BASE, 2)["embed.weight"].clone()})
        assert "lm_head.weight" not in merged(pair, tmp_path / "out", "linear")

    def test_a_head_of_its_own_is_merged_with_the_embedding_that_stands_for_it(
        self, pair: list[Path], tmp_path: Path
    ) -> None:
        head = torch.randn(12, 4)
        folder(pair[1], {**near(BASE, 2), "lm_head.weight": head}, tie_word_embeddings=False)
        found = merged(pair, tmp_path / "out", "linear")
        torch.testing.assert_close(found["lm_head.weight"], (near(BASE, 1)["embed.weight"] + head) / 2)
        assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False


def test_a_file_that_is_not_aligned_is_read_all_the_same(tmp_path: Path) -> None:
    content = {"a": torch.ones(3, dtype=torch.uint8), "w": torch.randn(5)}
    path = folder(tmp_path / "m", content) / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    path.write_bytes((length + 1).to_bytes(8, "little") + data[8 : 8 + length] + b" " + data[8 + length :])
    found = merged([tmp_path / "m"], tmp_path / "out", "linear")
    assert torch.equal(found["w"], content["w"])


def test_the_bound_is_k_plus_two_of_the_largest_tensor_and_threads_keep_it(pair: list[Path]) -> None:
    prepared = merge.prepare(merge.Inputs(tuple(pair)), method("linear"), threads=10_000)
    assert prepared.bound == 4 * 48 * 4 + (300 << 20)
    assert prepared.held <= prepared.bound - (150 << 20)
    assert 1 < prepared.threads < 10_000
    assert any("besides mapped files" in line for line in merge.describe(prepared))


def test_what_fails_in_a_thread_is_raised_and_leaves_no_model(
    pair: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = method("linear")

    def fail(piece: Any, params: Any) -> Any:
        raise ValueError("this cannot be merged")

    monkeypatch.setattr(asked.module, "merge", fail)
    with pytest.raises(ValueError, match="this cannot be merged"):
        merge.write(merge.prepare(merge.Inputs(tuple(pair)), asked, threads=3), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_kill_leaves_nothing_that_looks_like_a_model(pair: list[Path], tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from cuvee.merging import merge, streaming;"
        "from cuvee.mergers import linear; streaming.PIECE = 4; was = linear.merge;"
        "linear.merge = lambda piece, params: (print('working', flush=True), time.sleep(0.2), was(piece, params))[-1];"
        "a, b, out = map(Path, sys.argv[1:]);"
        "how = merge.Method('linear', linear, linear.Params());"
        "merge.write(merge.prepare(merge.Inputs((a, b)), how), out)"
    )
    out = tmp_path / "out"
    arguments = [sys.executable, "-c", code, str(pair[0]), str(pair[1]), str(out)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.3)
        os.kill(process.pid, signal.SIGKILL)
    assert not out.exists()
    assert not list(tmp_path.glob("out*/config.json"))
    assert len(merged(pair, out, "linear")) == len(BASE), "the same merge goes through afterwards"
    assert not list(tmp_path.glob("out.partial"))


def test_reading_a_fp16_model_keeps_its_dtype(tmp_path: Path) -> None:
    model = {"w": torch.randn(9).half()}
    found = merged([folder(tmp_path / "m", model)], tmp_path / "out", "linear")
    assert torch.equal(found["w"], model["w"])


class TestNoise:
    def test_it_hangs_on_seed_purpose_tensor_model_and_element_alone(self) -> None:
        whole = uniform(1, "dare", "w", 0, 0, 200_000)
        part = uniform(1, "dare", "w", 0, 65_000, 70_000)
        assert torch.equal(part, whole[65_000:135_000])
        for other in ((2, "dare", "w", 0), (1, "select", "w", 0), (1, "dare", "v", 0), (1, "dare", "w", 1)):
            assert not torch.equal(uniform(*other, 0, 100), whole[:100])

    def test_it_is_uniform_and_independent_between_models_and_neighbours(self) -> None:
        one, other = (uniform(0, "dare", "w", model, 0, 1_000_000).double() for model in (0, 1))
        for drawn in (one, other):
            assert float(drawn.min()) >= 0
            assert float(drawn.max()) < 1
            counts = torch.histc(drawn.float(), 100, 0, 1).double()
            chi = float(((counts - 10_000) ** 2 / 10_000).sum())
            assert 50 < chi < 160, "99 degrees of freedom"
        for left, right in ((one, other), (one[1:], one[:-1]), (one[65_536:], one[:-65_536])):
            correlation = float(torch.corrcoef(torch.stack([left, right]))[0, 1])
            assert abs(correlation) < 0.005

    def test_its_values_never_change(self) -> None:
        assert uniform(0, "dare", "w", 0, 0, 4).tolist() == GOLDEN


GOLDEN = [0.005802631378173828, 0.5450389981269836, 0.6318244934082031, 0.6515735983848572]


class TestSelection:
    def test_every_value_is_one_of_the_models_and_each_model_gives_its_share(self, tmp_path: Path) -> None:
        base = {"w": torch.zeros(1_000_000)}
        models = [folder(tmp_path / f"m{i}", {"w": torch.full((1_000_000,), float(i))}) for i in (1, 2, 4)]
        found = merged(models, tmp_path / "out", "selective", base=folder(tmp_path / "b", base))["w"]
        assert set(found.unique().tolist()) == {1.0, 2.0, 4.0}
        for value in (1.0, 2.0, 4.0):
            share = float((found == value).double().mean())
            assert abs(share - 1 / 3) < 4 * (2 / 9 / 1_000_000) ** 0.5
        assert float(found.double().mean()) == pytest.approx(7 / 3, abs=0.006)

    def test_no_parameter_stays_at_the_base_that_any_model_moved(self, tmp_path: Path) -> None:
        base = {"w": torch.zeros(30_000)}
        moved = [torch.zeros(30_000) for _ in range(3)]
        moved[0][:20_000], moved[1][10_000:20_000] = 1.0, 2.0
        models = [folder(tmp_path / f"m{i}", {"w": value}) for i, value in enumerate(moved)]
        at = folder(tmp_path / "b", base)
        found = merged(models, tmp_path / "out", "selective", base=at)["w"]
        assert found[:10_000].unique().tolist() == [1.0]
        assert found[20_000:].unique().tolist() == [0.0]
        half = found[10_000:20_000]
        assert set(half.unique().tolist()) == {1.0, 2.0}
        assert abs(float((half == 1).double().mean()) - 0.5) < 0.02, "drawn again among those that moved"
        plain = merged(models, tmp_path / "plain", "selective", base=at, resample=False)["w"]
        assert 0.0 in plain[:10_000].unique().tolist()

    def test_a_model_of_weight_zero_gives_nothing(self, tmp_path: Path) -> None:
        models = [
            folder(tmp_path / f"m{i}", {"w": value}) for i, value in enumerate([torch.zeros(9), torch.full((9,), 2.0)])
        ]
        base = folder(tmp_path / "b", {"w": torch.zeros(9)})
        found = merged(models, tmp_path / "out", "selective", base=base, weights=[1.0, 0.0])["w"]
        assert found.tolist() == [0] * 9, "the other one has not moved, and nothing is drawn in its place"


def test_what_is_seen_is_not_taken_far_ahead_of_a_thread_that_is_held_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts of a piece are larger than the piece: they would pile up while the first one is waited for."""
    monkeypatch.setattr(streaming, "PIECE", 10)
    most, was = [0], streaming.Stream._add
    release = threading.Event()

    def held_up(self: Any, group: Any, number: int, partial: Any) -> None:
        was(self, group, number, partial)
        most.append(len(group.early))

    class Slow:
        def needed(self, found: Any) -> bool:
            return True

        def see(self, piece: Any, params: Any) -> int:
            if piece.number == 0:
                release.wait(0.5)
            return piece.number

        def add(self, total: int, partial: int) -> int:
            return total + partial

        def end(self, total: int, params: Any, found: Any) -> int:
            return total

    monkeypatch.setattr(streaming.Stream, "_add", held_up)
    asked = method("slerp")
    monkeypatch.setattr(asked.module, "looks", lambda params: (Slow(),))
    monkeypatch.setattr(asked.module, "merge", lambda piece, params: piece.models[0] * 0 + piece.found[0])
    models = tuple(folder(tmp_path / f"m{i}", {"w": torch.randn(500)}) for i in range(2))
    merge.write(merge.prepare(merge.Inputs(models), asked, threads=3), tmp_path / "out")
    assert set(read(tmp_path / "out")["w"].tolist()) == {sum(range(50))}
    assert 2 <= max(most) <= 6


def test_pieces_do_not_hold_a_whole_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "PIECE", 10)
    asked, seen = method("linear"), []
    was = asked.module.merge
    monkeypatch.setattr(
        asked.module, "merge", lambda piece, params: (seen.append(len(piece.models[0])), was(piece, params))[1]
    )
    models = [folder(tmp_path / f"m{i}", {"w": torch.randn(101)}) for i in range(2)]
    merge.write(merge.prepare(merge.Inputs(tuple(models)), asked), tmp_path / "out")
    assert seen == [10] * 10 + [1]
    assert torch.allclose(read(tmp_path / "out")["w"], sum(read(m)["w"] for m in models) / 2)


def test_a_model_without_a_float_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.mkdir()
    save_file({"n": torch.arange(3)}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(CONFIG))
    assert "holds no floating-point tensor" in refused([path])
