"""A draw picks each token as often as its probability says, and hangs on nothing but itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from cuvee.engine import sampling  # noqa: E402
from cuvee.engine.decoding import Decoding, uniform  # noqa: E402

LOGITS = torch.tensor([[2.0, 0.0, -1.0, 1.0, -30.0]])
DRAWN = Decoding(1, temperature=1.0)


def test_greedy_takes_the_most_likely_whatever_is_drawn() -> None:
    logits = torch.randn(7, 50, generator=torch.Generator().manual_seed(0))
    assert sampling.choose(logits, [0.99] * 7, Decoding(1)).tolist() == logits.argmax(-1).tolist()
    cold = replace(DRAWN, temperature=1e-30)
    assert sampling.choose(logits, [0.99] * 7, cold).tolist() == logits.argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_the_tempered_softmax_says(temperature: float) -> None:
    draws = [uniform(0, f"request {i}", 0, i % 7) for i in range(20_000)]
    logits = LOGITS.expand(len(draws), -1)
    picks = sampling.choose(logits, draws, replace(DRAWN, temperature=temperature))
    found = picks.bincount(minlength=5) / len(draws)
    expected = torch.softmax(LOGITS[0] / temperature, -1)
    # Four standard deviations of the largest share.
    assert float((found - expected).abs().max()) < 4 * 0.5 / 20_000**0.5


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.1, [0]), (0.64, [0]), (0.66, [0, 3]), (0.95, [0, 1, 3]), (1.0, range(5))]
)
def test_a_nucleus_is_the_fewest_tokens_that_reach_top_p(top_p: float, kept: list[int]) -> None:
    # Probabilities .644 .087 .032 .237 .000 of tokens 0 to 4.
    weights = sampling.probabilities(LOGITS, replace(DRAWN, top_p=top_p))[0]
    assert [i for i, weight in enumerate(weights.tolist()) if weight] == list(kept)
    full = sampling.probabilities(LOGITS, DRAWN)[0]
    assert torch.equal(weights[list(kept)], full[list(kept)])


def test_a_nucleus_wider_than_the_first_look_is_found_all_the_same() -> None:
    logits = torch.randn(3, 5000, generator=torch.Generator().manual_seed(1)) * 0.1
    weights = sampling.probabilities(logits, replace(DRAWN, top_p=0.9))
    for row in weights:
        kept = row[row > 0]
        assert 0.9 <= float(kept.sum()) < 0.9 + float(kept.max())
        assert len(kept) > sampling.NUCLEUS


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=40), st.sampled_from([0.3, 0.9, 1.0]))
def test_a_row_gets_the_same_token_in_any_company(draws: list[float], top_p: float) -> None:
    settings = replace(DRAWN, top_p=top_p)
    logits = torch.randn(len(draws), 30, generator=torch.Generator().manual_seed(len(draws)))
    together = sampling.choose(logits, draws, settings).tolist()
    alone = [sampling.choose(logits[i : i + 1], [u], settings).item() for i, u in enumerate(draws)]
    assert together == alone
    weights = sampling.probabilities(logits, settings)
    assert all(weights[i, token] > 0 for i, token in enumerate(together))


@given(st.integers(0, 2**32), st.text(max_size=8), st.integers(0, 9), st.integers(0, 4000))
def test_draws_are_below_one_and_differ_by_every_coordinate(
    seed: int, request: str, sample: int, position: int
) -> None:
    own = uniform(seed, request, sample, position)
    others = {
        uniform(seed + 1, request, sample, position),
        uniform(seed, request + "x", sample, position),
        uniform(seed, request, sample + 1, position),
        uniform(seed, request, sample, position + 1),
    }
    assert 0 <= own < 1
    assert uniform(seed, request, sample, position) == own
    assert len(others | {own}) == 5
