"""What a recipe's sources are looked at for besides their tokens: tags, duplicates, overlap with benchmarks.

Each is a stage of its own that hangs on the loads alone, so that it is done once for all base models and settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from functools import cache
from itertools import combinations
from typing import Any

from cuvee import bases, components
from cuvee.errors import UsageError
from cuvee.pins import Pins
from cuvee.recipe import BaseModelRef, Component, Located, Nearness
from cuvee.stage import Base, Duplicates, Excluded, Loaded, Overlap, Preflight, Rendered, Tagged
from cuvee.stage import duplicates as look_for_duplicates
from cuvee.stage import overlap as look_for_overlap
from cuvee.stage import preflight as check
from cuvee.stage import tag as describe_tags


class Screening:
    """The stages that look at a recipe's sources.

    Args:
        located: the recipe.
        pins: what pins the base models of taggers.
        loaded: the sources by name.
        benchmarks: the files of questions by name.
    """

    def __init__(
        self, located: Located, pins: Pins, loaded: Mapping[str, Loaded], benchmarks: Mapping[str, Loaded]
    ) -> None:
        self.located, self.recipe, self.pins = located, located.recipe, pins
        self.loaded, self.benchmarks = loaded, benchmarks
        self._check_order()
        # One source may ask again for every run and seed.
        self.tags = cache(self._tags)
        self.excluded = cache(self._excluded)

    def _check_order(self) -> None:
        order = self.recipe.duplicates.order if self.recipe.duplicates else ()
        if order and sorted(order) != sorted(set(order) & set(self.loaded)):
            names = ", ".join(self.loaded)
            raise self.located.error(f"must name sources, each once; there are {names}", "duplicates", "order")

    # ------------------------------------------------------------------------------------------------ tags

    def _tags(self, name: str) -> tuple[Tagged, ...]:
        """Return the taggings of a source."""
        given = self.recipe.sources[name].taggers
        return tuple(self._tagged(name, number, component) for number, component in enumerate(given))

    def _tagged(self, name: str, number: int, component: Component) -> Tagged:
        key = ("sources", name, "taggers", number)
        try:
            module = components.find("taggers", component.name)
        except KeyError as error:
            raise self.located.error(str(error.args[0]), *key) from None
        params = self.located.check(module.Params, component.params, *key, component.name)
        asks = hasattr(module, "request")
        identity = components.without_absent(module, module.identity(params) if asks else dict(params))
        models = self._model(params, key) if asks else ()
        # What does not change an answer, such as how many are asked at once, is no part of the id.
        locate = {"params": params.model_dump(mode="json", exclude_unset=True)} if asks else {}
        return describe_tags(self.loaded[name], component.name, module.VERSION, identity, models, locate)

    def _model(self, params: Any, key: tuple[str | int, ...]) -> tuple[Base, ...]:
        if params.model is None:
            return ()
        try:
            return (bases.resolve(BaseModelRef(path=params.model), self.located.folder, self.pins),)
        except UsageError as error:
            raise self.located.error(str(error), *key) from error

    # -------------------------------------------------------------------------------------- duplicates, overlap

    def _excluded(self, name: str) -> tuple[tuple[Excluded, int], ...]:
        """Return the stages that name rows of a source to be left out, with its number among their sources."""
        source, found = self.recipe.sources[name], list[tuple[Excluded, int]]()
        if source.duplicates.drop and source.duplicates.near is not None:
            found.append((self._duplicates([self.loaded[name]], source.duplicates.near, source.duplicates.on), 0))
        across = self.recipe.duplicates
        if across and name in across.order:
            stage = self._duplicates([self.loaded[one] for one in across.order], across.near, across.on)
            found.append((stage, across.order.index(name)))
        if source.overlap == "drop":
            found += [(stage, 0) for stage in (*self._overlaps(name), *self._own_heldout(name))]
        return tuple(found)

    @property
    def _split(self) -> dict[str, Any]:
        return {"heldout": self.recipe.heldout, "split_seed": self.recipe.split_seed}

    def _duplicates(self, sources: Iterable[Loaded], near: Any, on: str) -> Duplicates:
        # Two sources may be the same rows: each has a number of its own.
        stages = list(sources)
        label = " + ".join(stage.label for stage in stages)
        return look_for_duplicates(stages, {**self._split, "near": near, "on": on}, label=label)

    def _overlaps(self, name: str) -> list[Overlap]:
        """Return the comparisons of a source with every benchmark."""
        return [self._overlap(name, benchmark, "all") for benchmark in self.benchmarks.values()]

    def _overlap(self, name: str, benchmark: Loaded, items: str) -> Overlap:
        given = self.recipe.preflight
        rules = {"ngram": given.ngram, "coverage": given.coverage, "near": given.near or Fraction(1)}
        return look_for_overlap(self.loaded[name], benchmark, {**self._split, **rules, "items": items})

    def _own_heldout(self, name: str) -> list[Overlap]:
        """Return the comparisons of a source with what is held out of the sources of its ability."""
        if not self.recipe.heldout:
            return []
        ability = self.recipe.sources[name].ability
        peers = [other for other, source in self.recipe.sources.items() if source.ability == ability]
        return [self._overlap(name, self.loaded[other], "heldout") for other in peers]

    def _duplicates_dropped(self) -> Iterator[list[str]]:
        """Yield pairs of sources, or a source twice, with what is left out between them: equal rows, or near ones.

        Where several sources are the same rows, only what all of them leave out.
        """
        rules: dict[str, list[str]] = {}
        for name, source in self.recipe.sources.items():
            left = self._as_strict(source.duplicates) if source.duplicates.drop else ""
            rules.setdefault(self.loaded[name].id, []).append(left)
        for load, found in rules.items():
            if all(found):
                yield [load, load, min(found)]  # "equal" comes before "near", and is less
        across = self.recipe.duplicates
        for one, other in combinations(across.order if across else (), 2):
            pair = sorted((self.loaded[one].id, self.loaded[other].id))
            if across and pair[0] != pair[1]:
                yield [*pair, self._as_strict(across)]

    def _as_strict(self, rule: Nearness) -> str:
        """Return what of the preflight's duplicates a rule leaves out for certain."""
        near = self.recipe.preflight.near
        covers = rule.near is not None and rule.on == "conversation" and (near is None or rule.near <= near)
        return "near" if covers else "equal"

    # --------------------------------------------------------------------------------------------- preflight

    def preflight(self, renders: Iterable[Rendered], tokenizer: Base) -> Preflight | None:
        """Return the checks of all sources as one setting renders them; None when some are only declared."""
        loads = [*self.loaded.values(), *self.benchmarks.values()]
        if any(stage.params.get("provisional") for stage in (*loads, tokenizer)):
            return None
        given = self.recipe.preflight
        names = list(self.loaded)
        overlaps = [stage for name in names for stage in (*self._overlaps(name), *self._own_heldout(name))]
        kept = {self.loaded[name].id for name in names if self.recipe.sources[name].overlap == "keep"}
        # Sources may be the same rows: those are left out only where all of them say so.
        dropped = sorted({self.loaded[name].id for name in names} - kept)
        params = {
            **self._split,
            "max_lost": given.max_lost,
            "max_overlap": given.max_overlap,
            "overlap_dropped": dropped,
            "duplicates_dropped": sorted(self._duplicates_dropped()),
        }
        # In the order of their ids, so that the order in the recipe changes nothing.
        every = sorted({stage.id: stage for stage in self.loaded.values()}.values(), key=lambda stage: stage.id)
        repeated = [self._duplicates(every, given.near, "conversation")]
        distinct = {stage.id: stage for stage in renders}.values()
        return check(distinct, tokenizer, repeated, {s.id: s for s in overlaps}.values(), params)
