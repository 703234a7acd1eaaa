"""Subsets are nested and hang on the rows alone; impossible amounts say what is possible."""

from __future__ import annotations

import hashlib
import sys
import types
from dataclasses import dataclass, field
from fractions import Fraction
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cuvee import seeds
from cuvee.data import examples as load
from cuvee.data import parts, ranks
from cuvee.errors import DataError


@dataclass(eq=False)
class Table:
    """Rows in memory, as choosing sees them."""

    keys: NDArray[np.uint8]
    prompt_keys: NDArray[np.uint8]
    occurrences: NDArray[np.int64]
    num_tokens: NDArray[np.int64]
    num_supervised: NDArray[np.int64]
    full_tokens: NDArray[np.int64]
    full_supervised: NDArray[np.int64]
    num_pieces: NDArray[np.int64]
    dropped: NDArray[np.bool_]
    tags: list[tuple[str, ...]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.keys)

    def shuffled(self, order: NDArray[np.int64]) -> Table:
        return Table(
            self.keys[order],
            self.prompt_keys[order],
            self.occurrences[order],
            self.num_tokens[order],
            self.num_supervised[order],
            self.full_tokens[order],
            self.full_supervised[order],
            self.num_pieces[order],
            self.dropped[order],
            [self.tags[index] for index in order],
        )

    def names(self, chosen: parts.Chosen) -> list[tuple[bytes, int, int]]:
        rows = chosen.rows.tolist()
        copies = chosen.copies.tolist()
        return sorted((self.keys[r].tobytes(), int(self.occurrences[r]), c) for r, c in zip(rows, copies, strict=True))


def key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def table(n: int, *, prompts: int = 0, repeats: int = 1) -> Table:
    """Return `n` rows; `prompts` different prompts, every row `repeats` times."""
    ids = np.frombuffer(b"".join(key(f"row {row // repeats}") for row in range(n)), np.uint8).reshape(n, 16)
    asked = [key(f"prompt {row % prompts if prompts else row // repeats}") for row in range(n)]
    tokens = 5 + np.arange(n, dtype=np.int64) % 7
    return Table(
        ids,
        np.frombuffer(b"".join(asked), np.uint8).reshape(n, 16),
        np.arange(n, dtype=np.int64) % repeats,
        tokens * 2,
        tokens,
        tokens * 2,
        tokens,
        np.ones(n, np.int64),
        np.zeros(n, np.bool_),
        [(("code",), ("chat", "math"), ())[row // repeats % 3] for row in range(n)],
    )


def take(rows: Table, *amounts: dict[str, Any], heldout: str = "0", seed: int | None = 0, **how: Any) -> parts.Chosen:
    return parts.choose(rows, {"amounts": list(amounts), **how}, Fraction(heldout), 0, seed)


# ------------------------------------------------------------------------------------------------- ranks


def test_ranks_of_many_rows_are_those_of_one() -> None:
    rows = table(20)
    numbers = np.arange(20, dtype=np.int64) % 3
    one = [seeds.rank(7, "subset", rows.keys[i].tobytes(), int(numbers[i])) for i in range(20)]
    assert ranks.ranks(7, "subset", rows.keys, numbers).tolist() == one
    for fraction in (Fraction(0), Fraction(1, 50), Fraction(1, 3), Fraction(1)):
        single = [seeds.below(7, "heldout", rows.keys[i].tobytes(), fraction) for i in range(20)]
        assert ranks.below(7, "heldout", rows.keys, fraction).tolist() == single


# ------------------------------------------------------------------------------------------------ amounts


@pytest.mark.parametrize(("n", "kept"), [(110_142, 430), (20_022, 78), (86_060, 336)])
def test_one_256th_of_the_papers_sets_has_the_papers_sizes(n: int, kept: int) -> None:
    assert len(take(table(n), {"share": "1/256"}).rows) == kept


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.fractions(0, 3), st.fractions(0, 3), st.integers(0, 5))
def test_shares_keep_floor_rn_rows_and_are_nested(n: int, a: Fraction, b: Fraction, seed: int) -> None:
    rows = table(n, repeats=2)
    small, large = sorted((a, b))
    if small * n < 1:
        return
    few, many = take(rows, {"share": small}, seed=seed), take(rows, {"share": large}, seed=seed)
    assert len(few.rows) == small.numerator * n // small.denominator
    assert set(rows.names(few)) <= set(rows.names(many))
    assert len(set(rows.names(many))) == len(many.rows)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 1 << 32),
    st.sampled_from([{"share": "1/3"}, {"count": 7}, {"tokens": 60}, {"share": "5/2"}]),
)
def test_the_order_of_the_file_changes_nothing(order: int, amount: dict[str, Any]) -> None:
    rows = table(90, repeats=3)
    other = rows.shuffled(np.random.default_rng(order).permutation(90))
    found = take(other, amount, heldout="1/10", duplicates="drop", drop={"tags": "code"})
    assert other.names(found) == rows.names(
        take(rows, amount, heldout="1/10", duplicates="drop", drop={"tags": "code"})
    )


def test_rows_that_are_added_do_not_reshuffle_the_others() -> None:
    few, many = table(100), table(200)
    first = {name for name, _, _ in few.names(take(few, {"share": "1/4"}))}
    both = {name for name, _, _ in many.names(take(many, {"share": "1/4"}))}
    threshold = max(seeds.rank(0, "subset", name) for name in both)
    assert {name for name in first if seeds.rank(0, "subset", name) <= threshold} <= both


def test_a_share_is_no_prefix_of_the_file() -> None:
    chosen = take(table(1000), {"share": "1/10"}).rows
    assert chosen.min() < 100
    assert chosen.max() > 900


def test_another_seed_is_another_subset() -> None:
    rows = table(200)
    assert rows.names(take(rows, {"count": 20})) != rows.names(take(rows, {"count": 20}, seed=1))


def test_amounts_are_taken_one_after_another() -> None:
    rows = table(100)
    twice = take(rows, {"count": 40}, {"share": "1/4"})
    assert rows.names(twice) == rows.names(take(rows, {"count": 10}))
    assert twice.counts["asked"] == ['{"count":40}', '{"share":"1/4"}']


def test_a_share_above_one_repeats_whole_copies_and_a_nested_rest() -> None:
    rows = table(8)
    chosen = take(rows, {"share": "9/4"})
    assert np.bincount(chosen.rows).tolist().count(3) == 2
    assert sorted(np.unique(chosen.copies).tolist()) == [0, 1, 2]
    assert set(chosen.rows[chosen.copies == 2]) == set(take(rows, {"share": "1/4"}).rows)
    assert len(take(rows, {"share": "2"}, {"share": "1/2"}).rows) == 8


def test_whole_shares_need_no_seed_and_others_do() -> None:
    assert len(take(table(5), {"share": "2"}, seed=None).rows) == 10
    assert len(take(table(5), seed=None).rows) == 5
    with pytest.raises(ValueError, match="no seed"):
        take(table(5), {"share": "1/2"}, seed=None)


@settings(max_examples=40, deadline=None)
@given(st.integers(5, 250))
def test_tokens_stop_before_the_row_that_would_exceed(tokens: int) -> None:
    rows = table(31)
    tokens = min(max(tokens, int(rows.num_supervised.max())), int(rows.num_supervised.sum()))
    chosen = take(rows, {"tokens": tokens})
    assert chosen.counts["supervised_tokens"] <= tokens
    if len(chosen.rows) < 31:
        more = take(rows, {"count": len(chosen.rows) + 1})
        assert set(chosen.rows) <= set(more.rows)
        assert more.counts["supervised_tokens"] > tokens


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 200), of=st.integers(1, 6), sizes=st.sampled_from(parts.SIZES), seed=st.integers(0, 3))
def test_portions_are_disjoint_whole_and_halve_each_other(n: int, of: int, sizes: str, seed: int) -> None:
    rows = table(n, repeats=2)

    def portion(number: int, many: int) -> set[Any]:
        cut = {"portion": {"number": number, "of": many, "sizes": sizes}}
        try:
            return set(rows.names(take(rows, cut, seed=seed)))
        except DataError:  # no row of so few
            return set()

    found = [portion(number, of) for number in range(of)]
    assert sum(map(len, found)) == n
    assert set().union(*found) == set(rows.names(take(rows)))
    assert all(portion(2 * i, 2 * of) | portion(2 * i + 1, 2 * of) == found[i] for i in range(of))
    if sizes == "equal":
        assert max(map(len, found)) - min(map(len, found)) <= 1


def test_drawn_shares_have_their_size_are_nested_by_number_and_another_number_is_another_draw() -> None:
    pool = table(1000)

    def drawn(number: int, share: str) -> set[Any]:
        return set(take(pool, {"drawn": {"number": number, "share": share}}).rows.tolist())

    quarters = [drawn(number, "1/4") for number in range(4)]
    assert [len(one) for one in quarters] == [250] * 4
    assert drawn(2, "1/8") < quarters[2]
    # Two independent quarters share about 1/16 of the rows, and four leave (3/4)^4 of them.
    assert 40 < len(quarters[0] & quarters[1]) < 90
    assert 270 < 1000 - len(set.union(*quarters)) < 360


def test_a_drawn_share_that_is_no_row_is_refused() -> None:
    with pytest.raises(DataError, match="a drawn share of 1/4 of 3 rows is no row; the smallest that keeps one is 1/3"):
        take(table(3), {"drawn": {"number": 0, "share": "1/4"}})


def test_a_binomial_portion_of_a_row_hangs_on_the_row_alone() -> None:
    cut = {"portion": {"number": 1, "of": 3, "sizes": "binomial"}}
    few, many = (table(n) for n in (300, 3000))
    assert set(few.names(take(few, cut))) == {row for row in many.names(take(many, cut)) if row in few.names(take(few))}
    sizes = [len(take(many, {"portion": {"number": i, "of": 3, "sizes": "binomial"}}).rows) for i in range(3)]
    assert sum(sizes) == 3000
    assert all(abs(size - 1000) < 4 * (3000 * 2 / 9) ** 0.5 for size in sizes)
    assert len(set(sizes)) > 1


def test_portions_are_taken_of_what_an_amount_left_and_a_portion_can_be_reduced() -> None:
    rows = table(400)
    share, cut = {"share": "1/4"}, {"portion": {"number": 0, "of": 2, "sizes": "equal"}}
    assert len(take(rows, share, cut).rows) == 50
    assert set(rows.names(take(rows, share, cut))) < set(rows.names(take(rows, share)))
    assert len(take(rows, cut, share).rows) == 50


@pytest.mark.parametrize(
    ("amount", "message"),
    [
        ({"share": "1/256"}, r"share of 1/256 of 100 rows is no row; the smallest .* 1/100"),
        ({"count": 0}, r"count: 0 keeps no row of 100"),
        ({"count": 150}, r"count: 150 asked, 100 rows are there; say count: 100 or less, or share: 3/2 to repeat"),
        ({"tokens": 10_000}, r"tokens: 10,000 asked, 795 supervised tokens are there; .* a share above 1 in its place"),
        ({"tokens": 1}, r"tokens: 1 keeps no row: the first by rank has \d+ supervised tokens"),
    ],
)
def test_impossible_amounts_say_what_is_possible(amount: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        take(table(100), amount)


@pytest.mark.parametrize("amount", [{"share": "1/2"}, {"count": 5}, {"tokens": 5}])
def test_an_amount_of_a_source_that_a_selection_emptied_says_so(amount: dict[str, Any]) -> None:
    none = {"select": np.arange(100)}
    with pytest.raises(DataError, match=r"keeps none of the 100 rows.*`within: source`"):
        parts.choose(table(100), {"amounts": [amount]}, Fraction(0), 0, 0, excluded=none)


@pytest.mark.parametrize("amount", [{}, {"share": "1/2", "count": 3}, {"weight": 1}])
def test_an_amount_is_exactly_one_of_three(amount: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="exactly one of share, count, tokens"):
        take(table(10), amount)


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="Did you mean 'amounts'"):
        parts.choose(table(3), {"amount": []}, Fraction(0), 0, 0)


# ----------------------------------------------------------------------------------------- order of operations


def test_held_out_prompts_never_train_whatever_the_answer_seed_or_source() -> None:
    rows = table(400, prompts=50)
    held = ranks.below(0, "heldout", rows.prompt_keys, Fraction(1, 5))
    assert 0 < held.sum() < 400
    for seed in (0, 1):
        chosen = take(rows, heldout="1/5", seed=seed)
        assert set(chosen.rows) == set(np.flatnonzero(~held))
    assert chosen.counts["heldout"] == held.sum()
    prompts = {rows.prompt_keys[row].tobytes() for row in np.flatnonzero(held)}
    assert not prompts & {rows.prompt_keys[row].tobytes() for row in chosen.rows}


def test_a_larger_split_only_adds_rows() -> None:
    rows = table(500)
    small = set(parts.heldout_rows(rows, Fraction(1, 50), 0, None))
    assert small < set(parts.heldout_rows(rows, Fraction(1, 10), 0, None))


def test_counts_say_where_every_row_went() -> None:
    rows = table(300, repeats=2)
    counts = take(rows, {"share": "1/2"}, heldout="1/10", duplicates="drop", drop={"tags": "^code$"}).counts
    gone = counts["heldout"] + counts["duplicates"] + counts["filtered"]
    assert counts["available"] == 300 == gone + counts["pool"]
    assert min(counts["heldout"], counts["duplicates"], counts["filtered"]) > 0
    assert counts["rows"] == counts["pool"] // 2


def test_tags_drop_a_row_when_any_matches_and_keep_it_when_any_matches() -> None:
    rows = table(9)
    assert [rows.tags[row] for row in take(rows, drop={"tags": "code|math"}).rows] == [()] * 3
    assert [rows.tags[row] for row in take(rows, keep={"tags": "ma"}).rows] == [("chat", "math")] * 3


def test_filters_that_cannot_work_say_so() -> None:
    untagged = table(3)
    untagged.tags = [()] * 3
    with pytest.raises(DataError, match="no row of the source has any; name the column"):
        take(untagged, drop={"tags": "code"})
    with pytest.raises(DataError, match="no regular expression"):
        take(table(3), drop={"tags": "("})
    with pytest.raises(DataError, match=r"no row is left of 9: 0 held out, 0 duplicates, 0 overlapping, 9 filtered"):
        take(table(9), drop={"tags": "."}, keep={"tags": "zebra"})


def test_rows_lost_at_rendering_count_in_n_and_are_reported() -> None:
    rows = table(100)
    rows.dropped[::4] = True
    rows.num_supervised[::4] = rows.num_tokens[::4] = 0
    counts = take(rows, {"share": "1/2"}).counts
    assert counts["rows"] == 50
    assert 0 < counts["lost"] < 50
    rows.dropped[:] = True
    with pytest.raises(DataError, match="all 50 chosen rows were lost at rendering"):
        take(rows, {"share": "1/2"})


def test_held_out_items_are_unique_alive_and_a_prefix_of_one_ranking() -> None:
    rows = table(400, repeats=2)
    rows.dropped[::8] = True
    every = parts.heldout_rows(rows, Fraction(1, 4), 0, None)
    assert parts.heldout_rows(rows, Fraction(1, 4), 0, 5).tolist() == every[:5].tolist()
    assert not rows.dropped[every].any()
    assert len({rows.keys[row].tobytes() for row in every}) == len(every)
    ranked = [seeds.rank(0, "items", rows.keys[row].tobytes()) for row in every]
    assert ranked == sorted(ranked)


def test_held_out_items_pass_the_drop_and_keep_rules_of_their_source() -> None:
    rows = table(300)
    every = parts.heldout_rows(rows, Fraction(1, 4), 0, None)
    # Amounts and duplicates do not count, and need no seed.
    how = {"amounts": [{"count": 1}], "duplicates": "drop", "drop": {"tags": "code"}}
    dropped = parts.heldout_rows(rows, Fraction(1, 4), 0, None, how)
    assert dropped.tolist() == [row for row in every if "code" not in rows.tags[row]]
    kept = parts.heldout_rows(rows, Fraction(1, 4), 0, None, {**how, "keep": {"tags": "math"}})
    assert kept.tolist() == [row for row in every if "math" in rows.tags[row]]
    assert 0 < len(kept) < len(dropped) < len(every)
    assert parts.heldout_rows(rows, Fraction(1, 4), 0, None, {}).tolist() == every.tolist()


def test_equal_rows_share_their_tags() -> None:
    rows = table(60, repeats=3)
    # Of 20 ids the even ones are tagged code once, at another place among the three each time.
    rows.tags = [("code",) if row // 3 % 2 == 0 and row % 3 == row // 3 % 3 else ("chat",) for row in range(60)]
    odd = np.flatnonzero(np.arange(60) // 3 % 2)
    assert take(rows, drop={"tags": "code"}).rows.tolist() == odd.tolist()
    assert set(take(rows, keep={"tags": "code"}).rows) == set(range(60)) - set(odd)
    assert len(take(rows, keep={"tags": "chat"}, drop={"tags": "code"}).rows) == 30
    assert set(parts.heldout_rows(rows, Fraction(1), 0, None, {"drop": {"tags": "code"}})) == set(odd[::3])
    assert len(parts.heldout_rows(rows, Fraction(1), 0, None, {"keep": {"tags": "code"}})) == 10


def as_loaded(rows: Table, order: NDArray[np.int64]) -> Table:
    """Return the rows of a file whose lines stand in another order: the load stage counts equal rows anew."""
    moved = rows.shuffled(order)
    moved.occurrences = load.occurrences(moved.keys).astype(np.int64)
    return moved


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 15), st.sets(st.sampled_from(["code", "chat", "math"]))), min_size=2, max_size=40
    ),
    st.sampled_from([{"share": "1/4"}, {"count": 1}, {"tokens": 12}, {"share": "5/2"}]),
    st.sampled_from(["keep", "drop"]),
    st.sampled_from([{"drop": {"tags": "code"}}, {"keep": {"tags": "ch|ma"}}]),
    st.randoms(use_true_random=False),
)
def test_tags_that_differ_between_equal_rows_make_no_subset_hang_on_the_files_order(
    lines: list[tuple[int, set[str]]], amount: dict[str, Any], duplicates: str, rule: dict[str, Any], random: Random
) -> None:
    every = table(16)
    rows = every.shuffled(np.array([row for row, _ in lines]))
    rows.tags = [tuple(sorted(tags)) for _, tags in lines]
    order = list(range(len(lines)))
    random.shuffle(order)
    rows, other = as_loaded(rows, np.arange(len(lines))), as_loaded(rows, np.array(order))

    def outcome(found: Table) -> Any:
        how = {"amounts": [amount], "duplicates": duplicates, **rule}
        try:
            chosen = parts.choose(found, how, Fraction(1, 10), 0, 0)
        except DataError as error:
            return str(error)
        return found.names(chosen), chosen.counts

    def items(found: Table) -> Any:
        try:
            return found.keys[parts.heldout_rows(found, Fraction(1, 2), 0, None, rule)].tobytes()
        except DataError as error:
            return str(error)

    assert outcome(other) == outcome(rows)
    assert items(other) == items(rows)


def test_a_filter_that_cannot_work_is_an_error_for_held_out_items_too() -> None:
    untagged = table(3)
    untagged.tags = [()] * 3
    with pytest.raises(DataError, match="no row of the source has any; name the column"):
        parts.heldout_rows(untagged, Fraction(1), 0, None, {"keep": {"tags": "code"}})


# ---------------------------------------------------------------------------------------------- exclusions


def test_excluded_rows_are_counted_under_their_reason_after_held_out_and_before_the_filters() -> None:
    rows = table(300, repeats=2)
    excluded = {"duplicates": np.arange(0, 30), "overlap": np.arange(20, 60)}
    how = {"duplicates": "drop", "drop": {"tags": "^code$"}}
    plain = parts.choose(rows, how, Fraction(1, 10), 0, 0).counts
    chosen = parts.choose(rows, how, Fraction(1, 10), 0, 0, excluded)
    counts = chosen.counts
    held = ranks.below(0, "heldout", rows.prompt_keys, Fraction(1, 10))
    again = (rows.occurrences > 0) | (np.arange(300) < 30)
    near = (np.arange(300) >= 20) & (np.arange(300) < 60)
    assert counts["heldout"] == plain["heldout"] == held.sum()
    assert counts["duplicates"] == (again & ~held).sum() > plain["duplicates"]
    assert counts["overlap"] == (near & ~again & ~held).sum() > 0 == plain["overlap"]
    gone = sum(counts[name] for name in ("heldout", "duplicates", "overlap", "filtered"))
    assert counts["available"] == gone + counts["pool"]
    assert not set(chosen.rows) & set(range(60))
    with pytest.raises(ValueError, match=r"excluded\.overlaps is unknown\. Did you mean 'overlap'"):
        parts.choose(rows, {}, Fraction(0), 0, 0, {"overlaps": np.arange(3)})


@settings(max_examples=40, deadline=None)
@given(
    st.sets(st.integers(0, 89)),
    st.sampled_from([({"share": "1/3"}, {"share": "2/3"}), ({"count": 7}, {"count": 20}), ({"tokens": 60},) * 2]),
    st.integers(0, 1 << 32),
)
def test_with_exclusions_subsets_are_nested_and_hang_on_the_rows_alone(
    out: set[int], amounts: tuple[dict[str, Any], dict[str, Any]], order: int
) -> None:
    rows = table(90, repeats=3)
    if len(out) > 60:
        return
    few, many = (
        parts.choose(rows, {"amounts": [amount]}, Fraction(0), 0, 0, {"overlap": np.array(sorted(out), np.int64)})
        for amount in amounts
    )
    assert set(rows.names(few)) <= set(rows.names(many))
    assert not set(few.rows) & out
    shuffle = np.random.default_rng(order).permutation(90)
    other = rows.shuffled(shuffle)
    moved = {"overlap": np.flatnonzero(np.isin(shuffle, sorted(out)))}
    again = parts.choose(other, {"amounts": [amounts[0]]}, Fraction(0), 0, 0, moved)
    assert other.names(again) == rows.names(few)


# ------------------------------------------------------------------------------------------- drop and keep


def test_a_row_goes_when_any_condition_of_drop_holds_and_stays_when_all_of_keep_hold() -> None:
    rows = table(90)
    code = np.array(["code" in tags for tags in rows.tags])
    long = rows.full_tokens > 18
    brief = rows.full_supervised < 7
    drop = take(rows, drop={"tags": "code", "longer_than": 18, "answer_shorter_than": 7})
    assert set(drop.rows) == set(np.flatnonzero(~(code | long | brief)))
    keep = take(rows, keep={"tags": "code", "longer_than": 18})
    assert set(keep.rows) == set(np.flatnonzero(code & long))
    assert set(take(rows, keep={"shorter_than": 12, "answer_longer_than": 3}).rows) == set(
        np.flatnonzero((rows.full_tokens < 12) & (rows.full_supervised > 3))
    )


def test_rows_that_the_template_refused_have_no_length_and_stay_in_renderings_account() -> None:
    rows = table(40)
    rows.full_tokens[::4] = rows.full_supervised[::4] = rows.num_tokens[::4] = rows.num_supervised[::4] = 0
    rows.dropped[::4] = True
    counts = take(rows, keep={"longer_than": 1}, drop={"shorter_than": 2}).counts
    assert (counts["filtered"], counts["lost"]) == (0, 10)


def test_tags_may_be_matched_by_stem_or_without_regard_to_capitals(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("cuvee.data.tags")
    module.normalise = lambda tag: tag.lower().replace("-", " ").removesuffix("ing")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuvee.data.tags", module)
    rows = table(3)
    rows.tags = [("Data-Coding",), ("cod",), ("CODE",)]
    assert take(rows, keep={"tags": "cod$"}).rows.tolist() == [1]
    assert take(rows, keep={"tags": "cod$", "stem": True}).rows.tolist() == [0, 1]
    assert take(rows, keep={"tags": "cod", "ignore_case": True}).rows.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"longer": 3}, r"how\.drop\.longer is unknown\. Did you mean 'longer_than'"),
        ({"stem": True, "longer_than": 3}, r"how\.drop has no tags"),
    ],
)
def test_conditions_that_mean_nothing_are_refused(conditions: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        take(table(9), drop=conditions)


def test_tags_from_elsewhere_join_a_rows_own() -> None:
    rows = table(9)
    more = [("new",) if row < 4 else () for row in range(9)]
    found = parts.choose(rows, {"keep": {"tags": "code|new"}}, Fraction(0), 0, 0, None, more)
    assert found.rows.tolist() == [row for row in range(9) if row < 4 or "code" in rows.tags[row]]
    with pytest.raises(ValueError, match="3 rows of tags for 9 rows"):
        parts.choose(rows, {"keep": {"tags": "x"}}, Fraction(0), 0, 0, None, more[:3])


def test_lengths_do_not_choose_items_but_tags_from_elsewhere_do() -> None:
    rows = table(300)
    every = parts.heldout_rows(rows, Fraction(1, 4), 0, None)
    assert parts.heldout_rows(rows, Fraction(1, 4), 0, None, {"drop": {"longer_than": 1}}).tolist() == every.tolist()
    more = [("new",) if row % 2 else () for row in range(300)]
    found = parts.heldout_rows(rows, Fraction(1, 4), 0, None, {"keep": {"tags": "new", "longer_than": 1}}, more)
    assert found.tolist() == [row for row in every if row % 2]


def test_items_of_a_mixture_are_the_rows_that_held_out_loss_is_measured_on_first() -> None:
    rows = table(400)
    kept = parts.choose(rows, {"amounts": [{"items": {"of": "1/4", "most": 7}}]}, Fraction(0), 0, 0).rows
    assert kept.tolist() == sorted(parts.heldout_rows(rows, Fraction(1, 4), 0, 7))
    assert not set(kept) & set(parts.choose(rows, {}, Fraction(1, 4), 0, 0).rows)
    with pytest.raises(DataError, match="held out at a share of 0"):
        parts.choose(rows, {"amounts": [{"items": {"of": "0", "most": 7}}]}, Fraction(0), 0, 0)
