"""A wrong recipe is told with key, line, what is possible and the nearest name."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from cuvee.errors import RecipeError, UsageError
from cuvee.recipe import Amount, Recipe, Training, load, override, parse, validate

GOOD = """\
base: fake:x
sources:
  math: {path: m.jsonl, ability: math}
training: {epochs: 2, learning_rate: 2e-5}
runs:
  - {strategy: multi_task}
"""


def recipe(text: str) -> Recipe:
    data, lines = parse(text, "r.yaml")
    return validate(Recipe, data, lines=lines, file="r.yaml")


def fault(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        recipe(text)
    return str(caught.value)


def test_a_good_recipe_is_read_with_defaults_of_the_paper() -> None:
    found = recipe(GOOD)
    assert found.training.epochs == 2
    assert found.training.learning_rate == 2e-5
    assert (found.training.schedule, found.training.warmup, found.training.batch_size) == ("cosine", 0.03, 128)
    assert found.heldout == Fraction(1, 50)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("epochs: 2", "epoch: 2"), r"r.yaml:4: training.epoch: unknown key 'epoch'. Did you mean 'epochs'?"),
        (("epochs: 2", "epochs: 1.5"), "r.yaml:4: training.epochs: input should be a valid integer, got 1.5"),
        (("ability: math", "abilty: math"), "r.yaml:3: sources.math.abilty: unknown key 'abilty'. Did you mean 'abi"),
        (("ability: math", "ability: 3"), "r.yaml:3: sources.math.ability: input should be a valid string, got 3"),
        ((", ability: math", ""), "r.yaml:3: sources.math.ability: is required and missing"),
        (("base: fake:x\n", ""), "r.yaml:1: needs exactly one of base and bases"),
        (
            ("learning_rate: 2e-5", "learning_rate: .inf"),
            "training.learning_rate: input should be a finite number, got inf",
        ),
        (
            ("learning_rate: 2e-5", "learning_rate: -1"),
            "training.learning_rate: input should be greater than 0, got -1",
        ),
        (("strategy: multi_task", "strat: x"), "r.yaml:6: runs.0.strategy: is required and missing"),
        (("ability: math", "ability: math, amount: 0.25"), "the bare number 0.25 could mean a share or a count"),
        (("ability: math", "ability: math, amount: 1"), "write {share: 1/4}, {count: 500} or {tokens: 2M}"),
        (("ability: math", "ability: math, amount: {share: 1/4, count: 3}"), "needs exactly one of share, count"),
        (("ability: math", "ability: math, amount: {share: 0}"), "sources.math.amount.share: input should be greater"),
        (("ability: math", "ability: math, amount: {count: 2.5}"), "amount.count: input should be a valid integer"),
        (("runs:\n  - {strategy: multi_task}", "runs: []"), "runs is empty"),
    ],
)
def test_a_fault_names_place_key_and_remedy(change: tuple[str, str], message: str) -> None:
    assert GOOD.replace(*change) != GOOD
    assert message in fault(GOOD.replace(*change))


def test_all_faults_are_told_at_once() -> None:
    text = fault(GOOD.replace("epochs: 2", "epoch: 2").replace("ability: math", "abilty: math"))
    assert "'epoch'" in text
    assert "'abilty'" in text


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"r.yaml:4: sources.math: the key is given twice"):
        parse(GOOD.replace("training:", "  math: {path: b, ability: c}\ntraining:"), "r.yaml")


def test_text_that_is_not_yaml_is_told_with_its_line() -> None:
    with pytest.raises(RecipeError, match=r"r.yaml:2: not valid YAML"):
        parse("base: x\nsources: {a: [}\n", "r.yaml")


@pytest.mark.parametrize(("text", "value"), [("1/4", Fraction(1, 4)), (0.25, Fraction(1, 4)), (2, Fraction(2))])
def test_shares_are_exact_fractions(text: object, value: Fraction) -> None:
    assert Amount.model_validate({"share": text}).share == value


@pytest.mark.parametrize(("text", "value"), [("2M", 2_000_000), ("1.5k", 1500), (7, 7)])
def test_numbers_may_carry_a_unit(text: object, value: int) -> None:
    assert Amount.model_validate({"tokens": text}).tokens == value


def test_overrides_change_nested_keys_and_list_items() -> None:
    data, _ = parse(GOOD)
    changed = override(data, ["training.epochs=5", "runs.0.strategy=sequential", "sources.code.path=c.jsonl"])
    assert changed["training"]["epochs"] == 5
    assert changed["runs"] == [{"strategy": "sequential"}]
    assert changed["sources"]["code"] == {"path": "c.jsonl"}
    assert data["training"]["epochs"] == 2


@pytest.mark.parametrize("wrong", ["training.epochs", "=3", "runs.7.strategy=x", "base.x=1"])
def test_a_wrong_override_is_refused(wrong: str) -> None:
    data, _ = parse(GOOD)
    with pytest.raises(UsageError, match="'"):
        override(data, [wrong])


def test_a_missing_recipe_suggests_the_near_file(tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").write_text(GOOD, encoding="utf-8")
    with pytest.raises(UsageError, match=r"no such recipe. Did you mean 'demo.yaml'\?"):
        load(tmp_path / "dmo.yaml")


def test_a_recipe_made_in_python_tells_its_faults_like_one_from_a_file() -> None:
    import cuvee

    data = {"base": "fake:x", "sources": {"a": {"rows": [], "abilty": "a"}}, "runs": [{"strategy": "multi_task"}]}
    with pytest.raises(RecipeError, match=r"sources\.a\.abilty: unknown key 'abilty'\. Did you mean 'ability'"):
        cuvee.load_recipe(data)


def test_settings_that_came_later_leave_old_ids_alone() -> None:
    old = set(Training().optimisation())
    assert not {"optimiser", "decay", "lora"} & old
    assert Training(optimiser="sgd").optimisation()["optimiser"] == "sgd"
    assert Training(schedule="wsd").optimisation()["decay"] == 0.1
    assert Training(method="lora").optimisation()["lora"]["rank"] == 16


def test_a_decay_without_its_schedule_is_refused() -> None:
    with pytest.raises(RecipeError, match="say schedule: wsd"):
        validate(Training, {"decay": 0.2})
    with pytest.raises(RecipeError, match="more than all steps together"):
        validate(Training, {"schedule": "wsd", "decay": 0.9, "warmup": 0.2})
