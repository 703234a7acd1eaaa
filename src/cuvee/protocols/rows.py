"""What sources and taggers promise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from cuvee.values import BadRow, Example, Message

if TYPE_CHECKING:
    pass
from cuvee.protocols.parameters import Params


@dataclass(frozen=True)
class Estimate:
    """What a look at a source says before it is loaded.

    Args:
        rows: number of rows, exact or not.
        exact: whether `rows` was counted.
        sample: a few converted examples from all over the source.
    """

    rows: int
    exact: bool
    sample: tuple[Example, ...] = ()


class Source(Protocol):
    """Where examples come from."""

    VERSION: int
    Params: type[Params]

    def pin(self, params: Any, folder: Any, cache: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Return (identity parameters that pin the content, where it lies on this machine)."""

    def examples(self, params: Mapping[str, Any], where: Mapping[str, Any]) -> Iterator[Example | BadRow]:
        """Yield the source's rows in file order; rows that cannot be used as `BadRow`."""

    def estimate(self, params: Mapping[str, Any], where: Mapping[str, Any]) -> Estimate:
        """Look at the source without loading it."""


class RuleTagger(Protocol):
    """Tags an example by looking at it."""

    VERSION: int
    Params: type[Params]

    def tags(self, example: Example, params: Any) -> tuple[str, ...]: ...


class ModelTagger(Protocol):
    """Tags an example by asking a model: one of the graph (`params.model`) or one of a server (`params.endpoint`).

    `identity` leaves out what cannot change an answer (how many are asked at once, how long to wait). `parse`
    returns None for an answer that cannot be read, which is counted and is not the same as no tags. `is_cut` says
    whether a question had to be shortened, which is counted too.
    """

    VERSION: int
    Params: type[Params]

    def request(self, example: Example, params: Any) -> tuple[Message, ...]: ...
    def parse(self, text: str, params: Any) -> tuple[str, ...] | None: ...
    def generation(self, params: Any) -> Mapping[str, Any]: ...
    def identity(self, params: Any) -> Mapping[str, Any]: ...
    def is_cut(self, example: Example, params: Any) -> bool: ...
