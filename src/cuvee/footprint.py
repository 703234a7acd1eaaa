"""What a plan takes up: memory of one process of the largest training, and bytes on disk."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from cuvee import memory, needs
from cuvee.sizes import Book, parameters_of, root_of
from cuvee.stage import Made, Stage, Trained


def memory_of(book: Book) -> tuple[tuple[memory.Item, ...], str, str]:
    """Return what a process of the largest training holds, that training's name, and a sentence on its size."""
    found = [(_held(stage, book), stage) for stage in book.plan.stages if stage.kind == "train"]
    if not found:
        return (), "", "no training"
    items, stage = max(found, key=lambda pair: sum(item.bytes for item in pair[0]))
    parameters, learnt = (max(count(s, book) for _, s in found) for count in (parameters_of, _trained))
    some = "" if learnt == parameters else f", {learnt / 1e6:.3g} M of them trained"
    shared = f" in each of {book.runtime.processes} processes" if book.runtime.processes > 1 else ""
    return items, stage.short, f"{parameters / 1e6:.4g} M parameters{some}: state and one micro batch{shared}"


def _held(stage: Stage, book: Book) -> tuple[memory.Item, ...]:
    size, runtime = book.sizes[stage.id], book.runtime
    step = size.total_tokens // max(1, size.steps) // runtime.processes
    tokens = max(min(runtime.micro_tokens, step), size.longest)
    supervised = tokens * size.supervised_tokens // max(1, size.total_tokens)
    model, trained = _shape(stage, book), _trained(stage, book)
    optimiser = stage.params.get("optimiser", "adamw")
    items = memory.of_training(model, trained, stage.params["precision"], runtime, tokens, supervised, optimiser)
    several = runtime.processes if runtime.shard == "fsdp" else 1
    beside = _held_beside(stage, trained == model.parameters) * model.parameters // several
    return (
        (*items, memory.Item("what regularisers keep", beside, "starting weights, Fisher information"))
        if beside
        else items
    )


def _shape(stage: Stage, book: Book) -> memory.Shape:
    root = root_of(stage)
    ref = book.plan.refs.get(root.id)
    declared = ref.declared.model_dump(exclude_none=True) if ref and ref.declared else {}
    folder = root.locate.get("path")
    facts = declared or (memory.configuration(Path(str(folder))) if folder else {})
    return memory.shape(parameters_of(stage, book), facts)


def _held_beside(stage: Stage, full: bool) -> int:
    """Return the bytes a parameter that regularisers keep: the start's weights, and the Fisher information.

    Those of an adapter share the frozen weights.
    """
    width, asked = (4 if stage.params["precision"] == "float32" else 2), stage.params.get("regulariser", {})
    starts = int("kl" in asked) + int("l2_sp" in asked or "ewc" in asked)
    return (starts * width + 4 * int("ewc" in asked)) if full else 0


def _trained(stage: Stage, book: Book) -> int:
    """Return about how many parameters a training changes: all, or those of the adapter.

    A rank-r adapter has r values for each input and output of a layer: about 4 hidden widths a block for queries and
    values, 19 for all linear layers 5 for one layer that is named.
    """
    count = parameters_of(stage, book)
    if stage.component != "lora":
        return count
    settings, model = stage.params["lora"], _shape(stage, book)
    targets = settings["targets"]
    widths = {"auto": 4, "all-linear": 19}[targets] if isinstance(targets, str) else 5 * len(targets)
    return min(count, model.layers * model.hidden * int(settings["rank"]) * widths)


def disk_of(book: Book, todo: frozenset[str], workers: int) -> tuple[int, int]:
    """Return the bytes that stay and the most there are meanwhile, walking the stages one after another."""
    kept = needs.kept_models(book.plan)
    waiting = Counter(parent.id for stage in book.plan.stages if stage.id in todo for parent in stage.parents())
    now = peak = checkpoint = 0
    for stage in book.plan.stages:
        if stage.id not in todo:
            continue
        now += _written(stage, book, todo)
        if stage.kind == "train":
            # Weights and two moments in float32; the two old checkpoints stay until the new one is whole.
            checkpoint = max(checkpoint, 3 * 12 * _trained(stage, book))
        # A mark is there twice for a moment: as its training left it, and as a model.
        peak = max(peak, now + (_model(stage, book) if stage.kind == "mark" else 0))
        for parent in stage.parents():
            waiting[parent.id] -= 1
            if isinstance(parent, Made) and parent.id in todo and parent.id not in kept and not waiting[parent.id]:
                now -= weights_of(parent, book)
    return now, peak + checkpoint * workers


def _written(stage: Stage, book: Book, todo: frozenset[str]) -> int:
    """Return the bytes that a stage leaves."""
    size = book.sizes[stage.id]
    if stage.kind == "render":
        return size.total_tokens * 4 + size.rows * 80
    if stage.kind == "load":
        return size.rows * 600
    if stage.kind == "fisher":
        return 4 * parameters_of(stage, book)
    if stage.kind == "train":
        left = sum(_model(mark, book) for mark in book.plan.marks.get(stage.id, ()) if mark.id in todo)
        return _model(stage, book) + left
    if stage.kind == "mark":  # what the training has left, if it is still to run
        return 0 if stage.one("training").id in todo else _model(stage, book)
    return weights_of(stage, book) if stage.kind in ("fold", "merge") else 0


def _model(stage: Stage, book: Book) -> int:
    """Return the bytes of what a training makes, or of a mark of it."""
    training = stage.one("training") if stage.kind == "mark" else stage
    return weights_of(stage, book) if isinstance(stage, Trained) else 4 * _trained(training, book)


def weights_of(stage: Stage, book: Book) -> int:
    """Return the bytes of a whole model's weights."""
    if stage.kind == "base":
        return 4 * parameters_of(stage, book)
    if stage.kind == "merge":  # what it is merged from decides, unless it is told
        width = {None: 0, "float32": 4}.get(stage.params.get("dtype"), 2)
        return width * parameters_of(stage, book) or weights_of(stage.inputs["models"][0], book)
    params = stage.one("training").params if stage.kind == "mark" else stage.params
    return parameters_of(stage, book) * (4 if params["precision"] == "float32" else 2)
