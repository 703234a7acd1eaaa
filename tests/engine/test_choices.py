"""Scores of choices equal those of a slow loop in float64, whatever is shared and however it is cut into passes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cuvee.engine import choices
from cuvee.engine.tree import groups, grow
from cuvee.errors import ModelError
from cuvee.protocols import Scored, TokenRow
from cuvee.runtime import Runtime
from tests.engine.conftest import VOCABULARY

pytest.importorskip("torch")

Folder = Callable[[str], Path]


def row(context: Sequence[int], continuation: Sequence[int]) -> TokenRow:
    return TokenRow((*context, *continuation), ((len(context), len(context) + len(continuation)),))


def items(number: int, shots: int = 0, seed: int = 3) -> list[list[TokenRow]]:
    """Questions of several lengths after the same shots; two to four choices that begin alike now and then."""
    draw = random.Random(seed)
    word = lambda: draw.randrange(3, VOCABULARY)  # noqa: E731
    shared = [word() for _ in range(shots)]
    found = []
    for _ in range(number):
        context = [*shared, *(word() for _ in range(draw.randrange(1, 20)))]
        first = word()
        ends = [[first, *(word() for _ in range(draw.randrange(0, 4)))] for _ in range(2)]
        ends += [[word() for _ in range(draw.randrange(1, 5))] for _ in range(draw.randrange(0, 3))]
        found.append([row(context, end) for end in ends])
    return found


def reference(folder: Path, asked: Sequence[Sequence[TokenRow]], limit: int = 1 << 30) -> list[list[Scored]]:
    """One choice at a time in float64 on the stock model; what is too long is cut at the front."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    found = []
    for choices_of_item in asked:
        scores = []
        for one in choices_of_item:
            start = one.spans[0][0]
            cut = max(0, len(one.ids) - limit - 1)
            ids = torch.tensor([one.ids[cut:]])
            with torch.no_grad():
                logits = model(input_ids=ids[:, :-1]).logits[0]
            each = torch.log_softmax(logits, -1)[start - cut - 1 :]
            targets = ids[0, start - cut :]
            total = float(each.gather(1, targets[:, None]).sum())
            scores.append(Scored(total, len(targets), bool((each.argmax(-1) == targets).all()), cut))
        found.append(scores)
    return found


def same(one: Sequence[Sequence[Scored]], other: Sequence[Sequence[Scored]]) -> None:
    pairs = [pair for a, b in zip(one, other, strict=True) for pair in zip(a, b, strict=True)]
    assert max(abs(a.logprob - b.logprob) for a, b in pairs) < 1e-4
    assert [(a.tokens, a.greedy, a.cut) for a, _ in pairs] == [(b.tokens, b.greedy, b.cut) for _, b in pairs]


def run(folder: Path, asked: Sequence[Sequence[TokenRow]], **more: Any) -> list[list[Scored]]:
    runtime = Runtime(device="cpu", threads=1, micro_tokens=more.pop("micro_tokens", 200))
    return choices.choose(folder, asked, runtime, more.pop("progress", lambda facts: None), **more)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma2", "neox", "mistral", "gpt2", "bloom"])
def test_scores_equal_a_slow_loop_in_float64(model_folder: Folder, kind: str) -> None:
    asked = [*items(9), *items(8, shots=60, seed=4)]
    same(run(model_folder(kind), asked), reference(model_folder(kind), asked))


def test_only_models_whose_attention_can_be_steered_use_trees(model_folder: Folder) -> None:
    for kind, said in (("llama", 0), ("gemma2", 0), ("bloom", 1)):
        notes: list[Any] = []
        run(model_folder(kind), items(2), progress=notes.append)
        assert sum("one choice a forward pass" in fact.get("note", "") for fact in notes) == said, (kind, notes)


def test_how_items_are_cut_into_passes_changes_nothing(model_folder: Folder) -> None:
    asked = [*items(7), *items(9, shots=50, seed=5)]
    same(run(model_folder("llama"), asked, micro_tokens=1), run(model_folder("llama"), asked, micro_tokens=100_000))


def test_shots_before_every_question_and_shared_contexts_are_computed_once() -> None:
    asked = items(30, shots=64, seed=6)
    found = groups(asked)
    computed = sum(len(g.prefix) + sum(len(tree.ids) for tree in g.trees) for g in found)
    assert [len(group.prefix) for group in found] == [64]
    contexts = sum(item[0].spans[0][0] - 64 for item in asked)
    continuations = sum(len(one.ids) - one.spans[0][0] for item in asked for one in item)
    assert computed <= 64 + contexts + continuations


def test_letters_of_one_question_cost_one_row_of_logits() -> None:
    tree = grow(0, [row([5, 6, 7], [letter]) for letter in (10, 11, 12, 13)], 0)
    assert (tree.ids.tolist(), tree.keep.tolist(), tree.targets.tolist()) == ([5, 6, 7], [2], [10, 11, 12, 13])


def test_a_tree_reads_each_choice_after_its_own_ancestors() -> None:
    tree = grow(0, [row([7, 8, 9], end) for end in ([4, 5], [4, 6], [3])], 0)
    assert tree.ids.tolist() == [7, 8, 9, 4]
    assert (tree.keep.tolist(), tree.places.tolist(), tree.targets.tolist()) == (
        [2, 3],
        [0, 1, 0, 1, 0],
        [4, 5, 4, 6, 3],
    )
    wide = grow(0, [row([7], end) for end in ([1, 2, 3], [4, 2, 3])], 0)
    assert wide.ancestors().astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 0, 0, 1, 0],
        [1, 0, 0, 1, 1],
    ]


def test_items_that_begin_otherwise_share_nothing() -> None:
    (group,) = groups(items(12))
    assert (len(group.prefix), len(group.trees)) == (0, 12)


def test_a_context_that_is_too_long_is_cut_at_its_beginning_and_counted(model_folder: Folder) -> None:
    asked = [[row([1 + n % 90 for n in range(140)], end) for end in ([5], [6, 7, 8])], *items(2)]
    found = run(model_folder("llama"), asked)
    same(found, reference(model_folder("llama"), asked, limit=128))
    assert [one.cut for one in found[0]] == [140 + 1 - 129, 140 + 3 - 129]
    with pytest.raises(ModelError, match="item 0 has 141 tokens, the model takes 129"):
        run(model_folder("llama"), asked, cut=False)


def test_a_continuation_longer_than_the_context_is_refused(model_folder: Folder) -> None:
    with pytest.raises(ModelError, match="a continuation of 130 tokens, the model's context is 128"):
        run(model_folder("llama"), [[row([1], [5] * 130), row([1], [6])]])


def test_a_kill_costs_unfinished_items_only(model_folder: Folder, tmp_path: Path) -> None:
    asked, journal = items(6), tmp_path / "items.jsonl"
    whole = run(model_folder("llama"), asked, journal=journal)
    lines = journal.read_text().splitlines(keepends=True)
    assert len(lines) == 7
    first = json.loads(lines[1])
    first["scores"][0][0] = -123.0  # told apart from what would be computed
    journal.write_text(lines[0] + json.dumps(first) + "\n" + lines[2] + lines[3][:20])
    notes: list[Any] = []
    again = run(model_folder("llama"), asked, journal=journal, progress=notes.append)
    assert any("2 items were there already" in fact.get("note", "") for fact in notes)
    values = [one.logprob for item in again for one in item]
    assert values.count(-123.0) == 1
    assert np.isclose(values, [one.logprob for item in whole for one in item], atol=1e-4).sum() == len(values) - 1


def test_the_journal_of_another_model_is_not_used(model_folder: Folder, tmp_path: Path) -> None:
    journal, notes = tmp_path / "items.jsonl", list[Any]()
    run(model_folder("llama"), items(3), journal=journal)
    found = run(model_folder("qwen2"), items(3), journal=journal, progress=notes.append)
    same(found, reference(model_folder("qwen2"), items(3)))
    assert any("another model" in fact.get("note", "") for fact in notes)


def test_equal_choices_score_alike(model_folder: Folder) -> None:
    (scores,) = run(model_folder("llama"), [[row([5, 6], [7, 8]), row([5, 6], [9]), row([5, 6], [7, 8])]])
    assert scores[0] == scores[2] != scores[1]
