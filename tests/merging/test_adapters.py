"""Adapters are merged in the two readings of the paper, folded into full precision or saved for PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cuvee import mergings
from cuvee.errors import ModelError, UsageError
from tests.merging.models import folder, read

PREFIX = "base_model.model."


def adapter(path: Path, layers: dict[str, tuple[Any, Any]], alpha: float | None = None, **config: Any) -> Path:
    """Write an adapter of (A, B) by layer; its scale is 1 unless alpha says otherwise."""
    path.mkdir(parents=True)
    tensors = {}
    for layer, (down, up) in layers.items():
        tensors[f"{PREFIX}{layer}.lora_A.weight"] = torch.as_tensor(down).float()
        tensors[f"{PREFIX}{layer}.lora_B.weight"] = torch.as_tensor(up).float()
    save_file(tensors, path / "adapter_model.safetensors")
    rank = next(iter(tensors.values())).shape[0]
    settings = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank if alpha is None else alpha,
        "bias": "none",
        **config,
    }
    (path / "adapter_config.json").write_text(json.dumps(settings))
    return path


def product(path: Path, layer: str = "layer") -> Any:
    """Return s B A of a saved adapter."""
    config = json.loads((path / "adapter_config.json").read_text())
    tensors = load_file(path / "adapter_model.safetensors")
    down, up = (tensors[f"{PREFIX}{layer}.lora_{kind}.weight"] for kind in "AB")
    assert config["r"] == down.shape[0]
    return config["lora_alpha"] / config["r"] * up @ down


def merged(name: str, models: list[Path], out: Path, base: Path | None = None, **params: Any) -> Path:
    folders = {"models": models, "base": [base] if base else []}
    mergings.write(name, params, folders, [*(m.name for m in models), "base"], out, threads=1)
    return out


COUNTER = {"layer": ([[1, 0]], [[1], [0]])}, {"layer": ([[0, 1]], [[0], [1]])}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lora_mean_of_products", [[0.5, 0.0], [0.0, 0.5]]),
        ("lora_product_of_means", [[0.25, 0.25], [0.25, 0.25]]),
    ],
)
def test_the_two_readings_differ_on_the_counter_example(tmp_path: Path, name: str, expected: Any) -> None:
    models = [adapter(tmp_path / f"a{i}", layers) for i, layers in enumerate(COUNTER)]
    assert product(merged(name, models, tmp_path / "out")).tolist() == expected
    base = folder(tmp_path / "base", {"layer.weight": torch.ones(2, 2), "other": torch.ones(3)})
    folded = read(merged(name, models, tmp_path / "folded", base))
    assert (folded["layer.weight"] - 1).tolist() == expected
    assert folded["other"].tolist() == [1, 1, 1]


def test_the_mean_of_products_is_the_mean_of_the_folded_models_whatever_ranks_and_scales(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shapes = (3, 6.0), (2, 1.0), (4, 4.0)
    models = [
        adapter(tmp_path / f"a{i}", {"layer": (torch.randn(rank, 7), torch.randn(5, rank))}, alpha)
        for i, (rank, alpha) in enumerate(shapes)
    ]
    weights = [1.0, 2.0, 5.0]
    found = merged("lora_mean_of_products", models, tmp_path / "out", weights=weights)
    expected = sum(w / 8 * product(m).double() for w, m in zip(weights, models, strict=True))
    torch.testing.assert_close(product(found).double(), expected, rtol=1e-5, atol=1e-5)
    assert json.loads((found / "adapter_config.json").read_text())["r"] == 9
    base = folder(tmp_path / "base", {"layer.weight": torch.randn(5, 7)})
    folded = read(merged("lora_mean_of_products", models, tmp_path / "folded", base, weights=weights))
    torch.testing.assert_close(folded["layer.weight"].double(), read(base)["layer.weight"].double() + expected)


def test_a_fold_is_in_the_bases_dtype_unless_told(tmp_path: Path) -> None:
    models = [adapter(tmp_path / "a", {"layer": (torch.randn(2, 7), torch.randn(5, 2))})]
    base = folder(tmp_path / "base", {"layer.weight": torch.randn(5, 7).bfloat16(), "norm": torch.ones(3).bfloat16()})
    narrow = read(merged("lora_mean_of_products", models, tmp_path / "narrow", base))
    wide = read(merged("lora_mean_of_products", models, tmp_path / "wide", base, dtype="float32"))
    assert {value.dtype for value in narrow.values()} == {torch.bfloat16}
    assert {value.dtype for value in wide.values()} == {torch.float32}
    assert torch.equal(wide["layer.weight"].bfloat16(), narrow["layer.weight"])
    torch.testing.assert_close(wide["layer.weight"], read(base)["layer.weight"].float() + product(models[0]))


@pytest.mark.parametrize("name", ["lora_mean_of_products", "lora_product_of_means"])
def test_equal_adapters_give_that_adapter(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    layers = {"layer": (torch.randn(2, 7), torch.randn(5, 2))}
    models = [adapter(tmp_path / f"a{i}", layers, 3.0, use_rslora=True) for i in range(3)]
    expected = 3.0 / 2**0.5 * layers["layer"][1] @ layers["layer"][0]
    torch.testing.assert_close(product(merged(name, models, tmp_path / "out")), expected)


def test_a_base_that_keeps_weights_turned_is_folded_turned(tmp_path: Path) -> None:
    down, up = torch.randn(2, 7), torch.randn(5, 2)
    models = [adapter(tmp_path / "a", {"layer": (down, up)}, fan_in_fan_out=True)]
    base = folder(tmp_path / "base", {"layer.weight": torch.zeros(7, 5)})
    found = read(merged("lora_mean_of_products", models, tmp_path / "out", base))["layer.weight"]
    torch.testing.assert_close(found, (up @ down).T)


def test_a_fold_is_in_shards_as_asked_with_its_memory_told_and_the_bases_settings(tmp_path: Path) -> None:
    models = [adapter(tmp_path / "a", {"layer": (torch.ones(2, 7), torch.ones(5, 2))})]
    (models[0] / "tokenizer.json").write_text("the adapter's")
    base = folder(tmp_path / "base", {"layer.weight": torch.zeros(5, 7), "norm": torch.ones(3)})
    for name in ("tokenizer.json", "vocab.json", "generation_config.json"):
        (base / name).write_text("the base's")
    told: list[str] = []
    folders = {"models": models, "base": [base]}
    how = {"threads": 1, "shard_bytes": 100, "progress": lambda facts: told.append(facts["note"])}
    out = tmp_path / "out"
    mergings.write("lora_mean_of_products", {}, folders, ["a", "base"], out, dry=True, **how)
    assert not list(tmp_path.glob("out*")), "dry"
    mergings.write("lora_mean_of_products", {}, folders, ["a", "base"], out, **how)
    assert len(list(out.glob("model-*.safetensors"))) == 2
    assert all("memory: at most" in one for one in told)
    assert [(out / name).read_text() for name in ("tokenizer.json", "generation_config.json")] == [
        "the adapter's",
        "the base's",
    ]
    assert not (out / "vocab.json").exists(), "another tokenizer's"


class TestRefused:
    def said(
        self, models: list[Path], name: str = "lora_mean_of_products", base: Path | None = None, **how: Any
    ) -> str:
        out = models[0].parent / "out"
        with pytest.raises((ModelError, UsageError)) as caught:
            merged(name, models, out, base, **how)
        assert not list(out.parent.glob("out*"))
        return str(caught.value)

    def pair(self, path: Path, **second: Any) -> list[Path]:
        ones = {"layer": (torch.ones(2, 3), torch.ones(4, 2))}
        return [adapter(path / "a", ones), adapter(path / "b", second.pop("layers", ones), **second)]

    def test_other_layers(self, tmp_path: Path) -> None:
        models = self.pair(tmp_path, layers={"other": (torch.ones(2, 3), torch.ones(4, 2))})
        assert "b and a change different layers, such as layer" in self.said(models)

    def test_other_shapes(self, tmp_path: Path) -> None:
        models = self.pair(tmp_path, layers={"layer": (torch.ones(2, 5), torch.ones(4, 2))})
        assert "layer layer is [4, 5] in b and [4, 3] in a" in self.said(models)

    def test_other_scales_where_matrices_are_averaged(self, tmp_path: Path) -> None:
        assert "differ in rank or scale" in self.said(self.pair(tmp_path, alpha=7.0), "lora_product_of_means")

    @pytest.mark.parametrize(
        "config",
        [
            {"use_dora": True},
            {"peft_type": "IA3"},
            {"bias": "all"},
            {"layer_replication": [[0, 4], [2, 5]]},
            {"init_lora_weights": "pissa_niter_4"},
        ],
    )
    def test_what_is_no_plain_lora(self, tmp_path: Path, config: dict[str, Any]) -> None:
        assert "only plain LoRA adapters" in self.said(self.pair(tmp_path, **config))

    def test_a_rank_that_the_configuration_denies(self, tmp_path: Path) -> None:
        assert "b: layer layer has rank 2, and adapter_config.json says r 4" in self.said(self.pair(tmp_path, r=4))

    def test_an_adapter_that_holds_no_number_somewhere(self, tmp_path: Path) -> None:
        models = self.pair(tmp_path, layers={"layer": (torch.full((2, 3), float("nan")), torch.ones(4, 2))})
        assert "b: tensor base_model.model.layer.lora_A.weight holds NaN or infinity" in self.said(models)

    def test_a_head_that_is_tied_to_the_embedding(self, tmp_path: Path) -> None:
        models = self.pair(tmp_path, layers={"lm_head": (torch.ones(2, 4), torch.ones(12, 2))})[1:]
        base = folder(tmp_path / "base", {"embed.weight": torch.ones(12, 4), "lm_head.weight": torch.ones(12, 4)})
        assert "ties head and input embedding" in self.said(models, base=base)

    def test_a_full_model(self, tmp_path: Path) -> None:
        models = [folder(tmp_path / "m", {"layer.weight": torch.ones(4, 3)})]
        assert "has no adapter_config.json; give an adapter" in self.said(models)

    def test_a_quantised_base(self, tmp_path: Path) -> None:
        base = folder(tmp_path / "base", {"layer.weight": torch.ones(4, 3)}, quantization_config={"bits": 4})
        assert "is quantised" in self.said(self.pair(tmp_path), base=base)

    def test_a_base_without_the_layer_or_of_another_shape(self, tmp_path: Path) -> None:
        models = self.pair(tmp_path)
        absent = folder(tmp_path / "absent", {"else.weight": torch.ones(4, 3)})
        assert "weight layer.weight is absent" in self.said(models, base=absent)
        small = folder(tmp_path / "small", {"layer.weight": torch.ones(2, 3)})
        assert "weight layer.weight is [2, 3]; the adapters change one of [4, 3]" in self.said(models, base=small)

    def test_weights_that_do_not_fit(self, tmp_path: Path) -> None:
        models = self.pair(tmp_path)
        assert "weights has 1 values for 2 models" in self.said(models, weights=[1.0])
        assert "add up to zero" in self.said(models, weights=[1.0, -1.0])
        assert "give others" in self.said(models, weights=[1.0, -1.0]), "there is no normalize to turn off"

    @pytest.mark.parametrize("alpha", [None, "16", True])
    def test_an_alpha_that_is_no_number(self, tmp_path: Path, alpha: Any) -> None:
        models = self.pair(tmp_path)
        config = models[1] / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": alpha}))
        assert f"b: lora_alpha in {config} is {alpha!r}" in self.said(models)

    def test_a_configuration_that_is_a_list(self, tmp_path: Path) -> None:
        models = self.pair(tmp_path)
        (models[1] / "adapter_config.json").write_text("[1, 2]")
        assert "holds no settings" in self.said(models)

    @pytest.mark.parametrize("lacking", ["A", "B"])
    def test_half_a_pair(self, tmp_path: Path, lacking: str) -> None:
        models = self.pair(tmp_path)
        path = models[1] / "adapter_model.safetensors"
        left = {key: value for key, value in load_file(path).items() if f"lora_{lacking}" not in key}
        save_file(left, path)
        there = "B" if lacking == "A" else "A"
        assert f"b: layer layer has {there} and no {lacking}" in self.said(models)

    def test_factors_that_cannot_be_multiplied(self, tmp_path: Path) -> None:
        models = self.pair(tmp_path, layers={"layer": (torch.ones(2, 3), torch.ones(4, 5))})
        assert "b: layer layer has A [2, 3] and B [4, 5]" in self.said(models)

    def test_other_ranks_are_seen_before_a_fold_begins(self, tmp_path: Path) -> None:
        models = self.pair(tmp_path, layers={"layer": (torch.ones(1, 3), torch.ones(4, 1))})
        base = folder(tmp_path / "base", {"layer.weight": torch.ones(4, 3)})
        assert "differ in rank or scale" in self.said(models, "lora_product_of_means", base=base)

    def test_adapters_of_differently_turned_bases(self, tmp_path: Path) -> None:
        assert "differ in fan_in_fan_out" in self.said(self.pair(tmp_path, fan_in_fan_out=True))
