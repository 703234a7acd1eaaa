"""Every element of every model goes past a merger once for each look it takes, and once more to be merged.

A tensor is cut into pieces of `PIECE` elements. Threads take pieces; what a look finds in them is added up in the order
of the pieces, so that sums hang neither on threads nor on timing. Memory is a few pieces a thread, whatever the models'
size.

    looks = (norms,)            before the merge: each sees all pieces of a tensor, or of the whole model
    merge(piece, params)        one piece of the result
"""

from __future__ import annotations

import heapq
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from cuvee.errors import ModelError
from cuvee.merging.matching import Slot

PIECE = 1 << 17
"""Elements of a piece: small enough for the processor's cache, large enough that Python's own time is little. Sums over
a tensor are made piece by piece, so another size is another rounding."""

AHEAD = 16
"""How many pieces the system is asked to fetch in advance."""

SPARE = 6
"""Pieces that a merger may hold besides its models', base's and extras'."""


@dataclass(frozen=True)
class Piece:
    """Some elements of one tensor in all models.

    Args:
        tensor: its name.
        number: of the piece among those that a look sees together.
        start: number of its first element in the tensor.
        models: the elements in each model, (n,) each in the precision of the merge; may be overwritten.
        base: the same in the base; None when the method needs none.
        extras: further tensors, one a model, such as Fisher information.
        found: what the looks have found so far, one entry each.
    """

    tensor: str
    number: int
    start: int
    models: list[Tensor]
    base: Tensor | None = None
    extras: list[Tensor] = field(default_factory=list)
    found: tuple[Any, ...] = ()


class Look(Protocol):
    """What is asked of all elements before the merge.

    `needed` says, by what was found before, whether the look must be taken; its find is None otherwise.
    """

    def needed(self, found: tuple[Any, ...]) -> bool: ...
    def see(self, piece: Piece, params: Any) -> Any: ...
    def add(self, total: Any, partial: Any) -> Any: ...
    def end(self, total: Any, params: Any, found: tuple[Any, ...]) -> Any: ...


@dataclass
class _Group:
    """Pieces that are looked at together: those of a tensor, or of the whole model."""

    number: int
    pieces: list[tuple[int, int, int]]
    looks: Sequence[Look]
    params: Any
    found: list[Any] = field(default_factory=list)
    total: Any = None
    early: dict[int, Any] = field(default_factory=dict)
    added: int = 0
    merged: int = 0


class Stream:
    """Runs a method over all slots.

    Args:
        slots: what is merged.
        module: the merger.
        params: its parameters.
        by_tensor: its parameters for each tensor.
        put: takes (slot, start, values).
        compute: dtype of the merge.
        progress: told how many elements are done, of how many.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        module: Any,
        params: Any,
        by_tensor: Mapping[str, Any],
        put: Callable[[Slot, int, Tensor], None],
        compute: torch.dtype,
        progress: Callable[[int, int], None] = lambda done, of: None,
    ) -> None:
        self.slots, self.module, self.by_tensor, self.put, self.compute = slots, module, by_tensor, put, compute
        self.progress, self.done, self.of = progress, 0, sum(slot.size for slot in slots)
        self._state = threading.Condition()
        self._local = threading.local()
        self._tasks: list[tuple[int, int, int]] = []
        self._error: BaseException | None = None
        self._groups = self._grouped(params)
        self._left = len(self._groups)
        self._window = 1

    def _grouped(self, params: Any) -> list[_Group]:
        looks = getattr(self.module, "looks", lambda params: ())
        whole = getattr(self.module, "whole_model", lambda params: False)(params)
        cut = [[(i, at, min(at + PIECE, slot.size)) for at in range(0, slot.size, PIECE)] for i, slot in self._floats()]
        if whole:
            return [_Group(0, [piece for pieces in cut for piece in pieces], looks(params), params)]
        groups: list[_Group] = []
        for pieces in filter(None, cut):
            own = self.by_tensor[self.slots[pieces[0][0]].name]
            groups.append(_Group(len(groups), pieces, looks(own), own))
        return groups

    def _floats(self) -> list[tuple[int, Slot]]:
        return [(i, slot) for i, slot in enumerate(self.slots) if not slot.copied]

    def run(self, threads: int) -> None:
        """Merge everything; what fails in a thread is raised here."""
        for slot in self.slots:
            if slot.copied and slot.size:
                self.put(slot, 0, slot.models[0].read(0, slot.size))
        for group in self._groups:
            self._next(group)
        self._window = 2 * threads
        if threads == 1:
            self._work()
        else:
            with ThreadPoolExecutor(threads) as pool:
                for future in [pool.submit(self._work) for _ in range(threads)]:
                    future.result()
        if self._error is not None:
            raise self._error

    def _next(self, group: _Group) -> None:
        """Put the next look's pieces, or those of the merge, among the tasks; the state is held or not yet shared."""
        while len(group.found) < len(group.looks) and not group.looks[len(group.found)].needed(tuple(group.found)):
            group.found.append(None)
        group.total, group.early, group.added = None, {}, 0
        for number in range(len(group.pieces)):
            heapq.heappush(self._tasks, (group.number, len(group.found), number))
        self._state_changed()

    def _state_changed(self) -> None:
        with self._state:
            self._state.notify_all()

    def _work(self) -> None:
        while True:
            with self._state:
                while not self._ready() and self._left and self._error is None:
                    self._state.wait()
                if self._error is not None or not self._left:
                    return
                number, turn, piece = heapq.heappop(self._tasks)
            try:
                self._do(self._groups[number], turn, piece)
            except BaseException as error:
                with self._state:
                    self._error = self._error or error
                    self._state.notify_all()
                return

    def _ready(self) -> bool:
        """Whether there is a piece to take; the state is held.

        What is seen is kept until all before it is added up, so none is taken far ahead of a thread that is held up.
        """
        if not self._tasks:
            return False
        number, turn, piece = self._tasks[0]
        group = self._groups[number]
        return turn == len(group.looks) or piece < group.added + self._window

    def _do(self, group: _Group, turn: int, number: int) -> None:
        which, start, stop = group.pieces[number]
        slot = self.slots[which]
        piece = self._piece(slot, number, start, stop, tuple(group.found))
        if turn == 0:
            self._ahead(which, start)
        params = self.by_tensor[slot.name]
        if turn < len(group.looks):
            partial = group.looks[turn].see(piece, params)
            with self._state:
                self._add(group, number, partial)
                self._state.notify_all()
            return
        merged = self.module.merge(piece, params)
        # The sum tells of nearly all pieces that each number is finite, and costs less than to look at each.
        if not math.isfinite(float(merged.sum())) and not bool(torch.isfinite(merged).all()):
            raise _not_finite(slot, start, stop)
        self.put(slot, start, merged)
        with self._state:
            group.merged += 1
            self.done += stop - start
            if group.merged == len(group.pieces):
                self._left -= 1
                self._state.notify_all()
                self.progress(self.done, self.of)

    def _add(self, group: _Group, number: int, partial: Any) -> None:
        """Add what was seen, in the order of the pieces; the state is held."""
        look = group.looks[len(group.found)]
        group.early[number] = partial
        while group.added in group.early:
            one = group.early.pop(group.added)
            group.total = one if group.added == 0 else look.add(group.total, one)
            group.added += 1
        if group.added == len(group.pieces):
            group.found.append(look.end(group.total, group.params, tuple(group.found)))
            self._next(group)

    def _piece(self, slot: Slot, number: int, start: int, stop: int, found: tuple[Any, ...]) -> Piece:
        views = [*slot.models, *([slot.base] if slot.base else []), *slot.extras]
        read = [self._converted(i, view.read(start, stop)) for i, view in enumerate(views)]
        count = len(slot.models)
        base = read[count] if slot.base else None
        return Piece(slot.name, number, start, read[:count], base, read[count + bool(slot.base) :], found)

    def _converted(self, number: int, values: Tensor) -> Tensor:
        """Return elements in the precision of the merge, in memory that each thread uses again and again."""
        buffers: dict[int, Tensor] = self._local.__dict__.setdefault("buffers", {})
        if number not in buffers:
            buffers[number] = torch.empty(PIECE, dtype=self.compute)
        found = buffers[number][: len(values)]
        return found.copy_(values)

    def _ahead(self, which: int, start: int) -> None:
        """Let the system fetch what comes after, half a window at a time."""
        if start // PIECE % (AHEAD // 2):
            return
        slot = self.slots[which]
        views = [*slot.models, *([slot.base] if slot.base else []), *slot.extras]
        for view in views:
            view.ahead(min(start + PIECE, slot.size), min(start + AHEAD * PIECE, slot.size))
        if start + AHEAD * PIECE >= slot.size and which + 1 < len(self.slots):
            after = self.slots[which + 1]
            for view in [*after.models, *([after.base] if after.base else []), *after.extras]:
                view.ahead(0, min(AHEAD * PIECE, after.size))


def _not_finite(slot: Slot, start: int, stop: int) -> ModelError:
    """Return what to say of a merged piece with numbers that are none."""
    views = [*slot.models, *([slot.base] if slot.base else []), *slot.extras]
    broken = [view for view in views if not bool(torch.isfinite(view.read(start, stop).float()).all())]
    if broken:
        one = broken[0]
        return ModelError(f"{one.weights.folder}: tensor {one.name} holds NaN or infinity; nothing is merged")
    return ModelError(f"tensor {slot.name}: the merge is no finite number there; choose smaller weights or scales")
