"""lm-evaluation-harness on a model folder: one task, offline unless told otherwise, one row an item, filter and metric.

    harness.parquet   item, task, filter, metric, value, target

Its own model class runs the model (transformers in padded batches). Nothing of the harness is patched but the switches
with which it and its libraries are kept off the network.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cuvee.engine import FAKE_FILE, loading
from cuvee.errors import ModelError, StageFailed, UsageError, did_you_mean
from cuvee.protocols import Progress
from cuvee.runtime import Runtime

FILE = "harness.parquet"


def run(
    model_folder: Path,
    work: Path,
    task: str,
    params: Mapping[str, Any],
    tasks_folder: Path | None,
    runtime: Runtime,
    progress: Progress,
    *,
    network: bool = False,
    batch_size: int = 8,
) -> dict[str, Any]:
    """Run one task, write its items and return the stage's summary.

    Args:
        model_folder: a Hugging Face folder.
        work: where the table is written.
        task: name of a task, group or tag.
        params: shots, chat, seed, limit, precision.
        tasks_folder: a folder with tasks in YAML besides the harness' own.
        runtime: device and threads.
        progress: told {"note"} when something is worth saying.
        network: whether data may be fetched.
        batch_size: rows of one forward pass.

    Raises:
        UsageError: the harness is not installed, or there is no such task.
        ModelError: the harness cannot load the model.
        StageFailed: the task's data cannot be had, the task runs code, or it failed.
    """
    with _tasks(task, tasks_folder, network) as (manager, tasks):
        from lm_eval import simple_evaluate

        _check_code(task, tasks)
        loading.set_threads(runtime)
        loading.forget()  # the harness holds a model of its own
        device = loading.device_of(runtime, progress)
        progress({"note": f"{task}: {len(tasks)} task(s) of the harness"})
        model = _model(model_folder, str(device), params["precision"], batch_size)
        try:
            results = simple_evaluate(
                model=model,
                tasks=[task],
                num_fewshot=params["shots"],
                limit=params["limit"],
                apply_chat_template=params["chat"],
                fewshot_as_multiturn=False,
                task_manager=manager,
                log_samples=True,
                bootstrap_iters=0,
                fewshot_random_seed=params["seed"],
            )
        except Exception as error:  # a task may run any code
            raise StageFailed(f"task {task} failed in the harness: {type(error).__name__}: {_first(error)}") from error
    assert results is not None
    rows = list(_rows(results["samples"]))
    if not rows:
        raise StageFailed(f"task {task} gives no metric of single items, so that it cannot be compared item by item")
    _write(work / FILE, rows)
    return _summary(results, rows)


@dataclass(frozen=True)
class Document:
    """One item of a task before any model sees it.

    Args:
        item: its name, as in the table.
        task: the single task that it belongs to.
        number: its place there.
        text: its question; where the task says what of it others may have published, that alone.
    """

    item: str
    task: str
    number: int
    text: str


def documents(
    task: str, tasks_folder: Path | None, limit: int | None = None, *, network: bool = False
) -> list[Document]:
    """Return the items that `run` would ask about, without a model.

    Args:
        task, tasks_folder, network: as of `run`.
        limit: the first so many of each single task.

    Raises:
        UsageError: the harness is not installed, or there is no such task.
        StageFailed: the task's data cannot be had or read.
    """
    with _tasks(task, tasks_folder, network) as (_, tasks):
        try:
            return [
                Document(_item(name, number, doc), name, number, _question(one, doc))
                for name, one in tasks.items()
                for number, doc in one.doc_iterator(rank=0, limit=limit, world_size=1)
            ]
        except Exception as error:  # a task may run any code
            raise StageFailed(
                f"task {task}: its documents cannot be read: {type(error).__name__}: {_first(error)}"
            ) from error


def _item(task: str, number: int, doc: Any) -> str:
    """Return an item's name from its document, with the hash that the harness tells with a result."""
    from lm_eval.utils import handle_non_serializable, hash_string

    text = json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False)
    return _named(task, number, hash_string(text))


def _named(task: str, number: int, digest: str) -> str:
    return f"{task}/{number}/{digest[:16]}"


def _question(task: Any, doc: Any) -> str:
    query = _query(task, doc) if task.should_decontaminate() else None
    text = query if isinstance(query, str) else task.doc_to_text(doc)
    if isinstance(text, str):
        return text
    # Where the choices stand first (WinoGrande), the text is the number of the right one.
    return "\n".join(map(str, task.doc_to_choice(doc)))


def _query(task: Any, doc: Any) -> Any:
    """Return what the task says that others may have published; None where it cannot be had.

    The harness reads a filled template as a Python literal, which those of most tasks, ARC's among them, are not.
    """
    from lm_eval.utils import apply_template

    try:
        return task.doc_to_decontamination_query(doc)
    except Exception:  # a task may run any code
        template = task.config.doc_to_decontamination_query
        return apply_template(template, doc) if isinstance(template, str) and "{{" in template else None


@contextlib.contextmanager
def _tasks(task: str, folder: Path | None, network: bool) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """Yield the harness' manager and single tasks with their data; quiet, and offline unless told otherwise.

    Raises:
        UsageError: the harness is not installed, or there is no such task.
        StageFailed: the task's data cannot be had.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UsageError(
            f"lm_eval runs tasks of lm-evaluation-harness, which this Python has not ({error}); "
            "pip install 'cuvee[harness]'"
        ) from None
    with _quiet(), _network(network):
        manager = TaskManager(include_path=str(folder) if folder else None)
        _check_name(task, manager.all_tasks, folder)
        yield manager, _loaded(task, manager)["tasks"]


def _model(folder: Path, device: str, precision: str, batch_size: int) -> Any:
    """Return the harness' own model.

    Raises:
        ModelError: it does not load the folder.
    """
    from lm_eval.models.huggingface import HFLM

    if (folder / FAKE_FILE).is_file():
        from cuvee.engine.fake_harness import Draws

        return Draws()
    try:
        return HFLM(pretrained=str(folder), device=device, dtype=precision, batch_size=batch_size)
    except Exception as error:  # transformers and the harness raise errors of many kinds here
        raise ModelError(
            f"{folder}: lm-evaluation-harness cannot load the model ({type(error).__name__}: {_first(error)}); "
            "it takes causal models in a Hugging Face folder with config.json, weights and tokenizer"
        ) from error


def _check_name(task: str, known: Sequence[str], folder: Path | None) -> None:
    if task not in known:
        more = "" if folder else " Tasks of your own are found with folder: FOLDER."
        near = did_you_mean(task, known)
        near = near if "Did you mean" in near else f" It has {len(known):,}."
        raise UsageError(f"lm-evaluation-harness has no task '{task}'.{near}{more}")


def _loaded(task: str, manager: Any) -> Any:
    """Return the harness' tasks with their data."""
    try:
        return manager.load([task])
    except Exception as error:  # datasets raises errors of many libraries here
        raise StageFailed(
            f"task {task}: its data cannot be had ({type(error).__name__}: {_first(error)}); nothing is fetched unless "
            "network: true, and a task in a folder of your own may name files (dataset_path: json, "
            "dataset_kwargs: {data_files: ...})"
        ) from error


def _check_code(task: str, tasks: Mapping[str, Any]) -> None:
    unsafe = [name for name, one in tasks.items() if getattr(one, "UNSAFE_CODE", False) or _says_unsafe(one)]
    if unsafe:
        raise StageFailed(
            f"task {task} runs code that the model wrote ({unsafe[0]}), and the harness has no sandbox for it; "
            "use humaneval or mbpp"
        )


def _says_unsafe(task: Any) -> bool:
    return bool(getattr(getattr(task, "config", None), "unsafe_code", False))


def _first(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else "no message"


def _rows(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Yield every metric of every item that is one number; others (pairs for F1) are aggregated by the harness only."""
    for task, found in samples.items():
        for sample in found:
            for metric in sample["metrics"]:
                value: Any = sample.get(metric)
                if isinstance(value, bool | int | float) or hasattr(value, "item"):
                    yield {
                        "item": _named(task, sample["doc_id"], sample["doc_hash"]),
                        "task": task,
                        "filter": sample["filter"],
                        "metric": metric,
                        "value": float(value),
                        "target": str(sample["target"])[:500],
                    }


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)


def _summary(results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what must be known of the numbers: versions, shots, directions, filters, sizes, the harness' own means."""
    names = list(results["samples"])
    counts = {name: results["n-samples"][name] for name in names if name in results.get("n-samples", {})}
    directions = {name: results.get("higher_is_better", {}).get(name, {}) for name in names}
    return {
        "items": len({row["item"] for row in rows}),
        "full": sum(int(count["original"]) for count in counts.values()) or len({row["item"] for row in rows}),
        "tasks": names,
        "task_versions": {name: str(results["versions"].get(name)) for name in names},
        "n_shot": {name: results["n-shot"].get(name) for name in names},
        "higher_is_better": {metric: up for of in directions.values() for metric, up in of.items()},
        "filters": sorted({row["filter"] for row in rows}),
        "metrics": sorted({row["metric"] for row in rows}),
        "aggregated": {
            name: {k: v for k, v in of.items() if isinstance(v, int | float)} for name, of in results["results"].items()
        },
        "harness": str(results.get("lm_eval_version") or _version()),
    }


def _version() -> str:
    from importlib import metadata

    return metadata.version("lm_eval")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the harness' bars and notes out of our log; what matters is raised."""
    level = logging.getLogger("lm_eval").level
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.getLogger("lm_eval").setLevel(level)


@contextlib.contextmanager
def _network(allowed: bool) -> Iterator[None]:
    """Keep `datasets` and the hub's client off the network: both read their switch when they are imported."""
    import datasets
    import huggingface_hub.constants as hub

    before = (datasets.config.HF_HUB_OFFLINE, hub.HF_HUB_OFFLINE)
    if not allowed:
        datasets.config.HF_HUB_OFFLINE = hub.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, hub.HF_HUB_OFFLINE = before
