"""A model of this machine as judge: a folder, or a stage of the store, whose verdicts are read."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cuvee import bases, planner
from cuvee.errors import ModelError, UsageError
from cuvee.pins import Pins
from cuvee.recipe import BaseModelRef, Located, Recipe, validate
from cuvee.store import Store
from tests.surface.test_judged import execute_missing

FILES = Path(__file__).parents[2] / "examples" / "judged"
VERDICT = "[7]"
STAGE = "0123456789abcdef" * 4


@pytest.fixture
def judge(tmp_path: Path) -> Path:
    """A model folder whose next token hangs on the last one alone: after a prompt it says `VERDICT` and ends."""
    torch = pytest.importorskip("torch")
    from transformers import LlamaConfig, LlamaForCausalLM

    from cuvee.data.chat import Chat
    from cuvee.values import Message

    micro, folder = bases.builtin_folder("micro"), tmp_path / "judge"
    chat = Chat(micro, "plain")
    last = chat.prompt((Message("user", "x"),))[-1]
    said = [last, *chat.tokenizer.encode(VERDICT, add_special_tokens=False).ids, chat.stop_ids[0]]
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 1}
    config = LlamaConfig(
        vocab_size=994, num_hidden_layers=1, tie_word_embeddings=False, eos_token_id=2, **sizes, dtype="float32"
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in (model.model.layers[0].self_attn.o_proj, model.model.layers[0].mlp.down_proj, model.lm_head):
            weight.weight.zero_()
        for place, (token, following) in enumerate(pairwise(said)):
            model.model.embed_tokens.weight[token] = torch.eye(32)[place]
            model.lm_head.weight[following] += 10 * torch.eye(32)[place]
    model.save_pretrained(folder)
    for path in micro.glob("*token*"):
        shutil.copy(path, folder)
    return folder


def planned(place: Path, judge: str) -> planner.Plan:
    shutil.copytree(FILES, place / "judged", dirs_exist_ok=True)
    words = [json.loads(line) for line in (FILES / "judge_prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    short = [{**one, "system_prompt": "Rate.", "prompt_template": "{answer}{answer_2}"} for one in words]
    text = "".join(json.dumps(one) + "\n" for one in short)
    (place / "judged" / "judge_prompts.jsonl").write_text(text, encoding="utf-8")
    given = {"model": judge, "template": "plain", "max_tokens": 8}
    data = {
        "base": "builtin:micro",
        "runs": [{"strategy": "untrained"}],
        "training": {"template": "plain"},
        "evaluation": [{"mt_bench": {"path": "judged", "items": 2, "max_new_tokens": 2, "judge": given}}],
    }
    store = Store(place / ".cuvee")
    return planner.make(Located(validate(Recipe, data), place), Pins(store.pins, place / "recipe.lock"))


def test_what_a_model_folder_says_is_read_and_scored(place: Path, judge: Path) -> None:
    score = execute_missing(planned(place, str(judge)), place)
    assert (score["n"], score["mean"], score["unjudged"]) == (4, 7.0, 0)
    assert score["verdicts"]["fallback"] == 4


def test_a_stage_of_the_store_judges_as_its_folder_does(place: Path, judge: Path) -> None:
    store = Store(place / ".cuvee")
    store.prepare()
    work = store.work("train-x")
    shutil.copytree(judge, work / "model")
    store.commit("train", STAGE, work, {"id": STAGE, "kind": "train", "identity": {}, "summary": {}})
    name = f"train-{STAGE[:12]}"
    by_name, by_folder = (planned(place, one).evaluated[0].grade.one("answers") for one in (name, str(judge)))
    assert by_name.one("judge").id == by_folder.one("judge").id
    assert by_name.id == by_folder.id
    assert by_name.one("judge").label == name


def test_a_stage_that_is_not_there_an_adapter_and_given_up_weights_are_told(place: Path) -> None:
    store = Store(place / ".cuvee")
    store.prepare()
    pins = Pins(store.pins, place / "recipe.lock")
    with pytest.raises(UsageError, match=r"no stage 'train-0123' in .*`cuvee list`"):
        bases.resolve(BaseModelRef(path="train-0123"), place, pins)
    work = store.work("train-x")
    (work / "model").mkdir(parents=True)
    (work / "model" / "adapter_config.json").write_text("{}", encoding="utf-8")
    store.commit("train", STAGE, work, {"id": STAGE, "kind": "train", "identity": {}, "summary": {}})
    with pytest.raises(ModelError, match=r"holds a LoRA adapter .* name the fold stage after it"):
        bases.resolve(BaseModelRef(path="train-0123"), place, pins)
    store.amend("train", STAGE, shed=["model"])
    with pytest.raises(UsageError, match="its weights were given up"):
        bases.resolve(BaseModelRef(path="train-0123"), place, pins)
