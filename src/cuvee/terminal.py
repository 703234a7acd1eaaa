"""What people see in the terminal: the plan as a tree, live progress, the closing table."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from cuvee.plan import Plan, display_name
from cuvee.protocols import RunInfo
from cuvee.runner import Outcome
from cuvee.stage import Stage
from cuvee.store import Store

MAX_RUNS = 60
"""Runs drawn in a plan's tree."""

BEAT_SECONDS = 60.0
"""Between two lines of a stage under way, where there is no live view."""

LARGE = 10**9
"""Bytes of a training from which a plan shows what they are."""

WIDE = 240
"""Columns when the output is no terminal: whoever reads a file wants whole lines."""


def make_console() -> Console:
    """Return what is printed to: as wide as the terminal, wide where the output is none."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)


def number(value: float, exact: bool = True) -> str:
    """Return a count with thousands marks, ``~`` before an estimate."""
    return f"{'' if exact else '~'}{value:,.0f}"


def duration(seconds: float) -> str:
    """Return seconds as 45 s, 12.3 min, 4.5 h or 9.1 days."""
    for limit, unit, size in ((100, "s", 1), (6000, "min", 60), (36 * 3600, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.{0 if unit == 's' else 1}f} {unit}"
    return f"{seconds / 86400:.1f} days"


def size(count: float) -> str:
    """Return bytes as MB or GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def print_plan(view: Mapping[str, Any]) -> None:
    """Draw the tree of runs and stages with sizes, then what sharing saves and what the rest costs."""
    console = make_console()
    by_id = {stage["id"]: stage for stage in view["stages"]}
    tree = Tree(Text(view["recipe"] or "recipe"))
    _data_branch(tree.add("data"), view)
    seen: set[str] = set()
    for run in view["runs"][:MAX_RUNS]:
        branch = tree.add(Text(run["name"]))
        for stage_id in run["models"]:
            branch = _model_branch(branch, by_id[stage_id], by_id, seen)
        if marks := dict.fromkeys(mark["fraction"] for mark in run["marks"]):
            branch.add(f"each marked after {', '.join(marks)} of its steps")
    if len(view["runs"]) > MAX_RUNS:
        tree.add(f"... and {len(view['runs']) - MAX_RUNS:,} more runs; --json lists all")
    measured = [s for s in view["stages"] if s["kind"] == "grade"]
    missing = sum(not s["cached"] for s in measured)
    tree.add(f"evaluation: {len(measured)} graded sets, {len(measured) - missing} cached, {missing} to do")
    if looked_at := [s for s in view["stages"] if s["kind"] == "embed" and s["component"] == "hidden"]:
        tree.add(f"hidden states: {len(looked_at)} sets, {sum(not s['cached'] for s in looked_at)} to do")
    console.print(tree)
    _print_totals(console, view)
    _print_power(console, view["power"])


def _print_power(console: Console, power: Mapping[str, Any]) -> None:
    """What differences the items can show, and what a wished one would need."""
    if not power["measures"]:
        return
    pairs, many = power["comparisons"], power["comparisons"] != 1
    console.print(
        f"smallest true difference between two runs found {power['power']:.0%} of the time (in brackets corrected for "
        f"{'all ' if many else ''}{pairs:,} pair{'s' * many} of runs):"
    )
    for each in power["measures"]:
        items = "items unknown until it has run once" if each["items"] is None else f"{each['items']:,} items"
        text = f"  {each['ability']} by {each['evaluator']}: {items}, {_smallest(each)} ({each['basis']})"
        console.print(Text(text + _wished(each, power)))
    unknown = all(each["seed_sd"] is None for each in power["measures"])
    if unknown:
        seeds = "1 seed" if power["seeds"] == 1 else f"{power['seeds']} seeds"
        console.print(Text(f"  {seeds}: what another training would change is not in these numbers", style="dim"))


def _smallest(each: Mapping[str, Any]) -> str:
    if each["smallest"] is None:
        return "not known yet"
    points = each["metric"] == "accuracy" or each["metric"].startswith("pass")
    factor, digits, unit = (100, 1, " points") if points else (1, 3, f" of {each['metric']}")
    low, high = each["smallest"] * factor, each["smallest_corrected"] * factor
    return f"{low:.{digits}f}{unit} ({high:.{digits}f})"


def _wished(each: Mapping[str, Any], power: Mapping[str, Any]) -> str:
    if power["detect"] is None:
        return ""
    if each["needed_items"] is None:
        wish = power["detect"]
        told = each["smallest"] is not None and wish > 1
        return f"; no share can change by {wish:g}; {wish:g} points are {wish / 100:g}" if told else ""
    more = max(0, each["needed_items"] - each["items"]) if each["items"] is not None else 0
    seeds = f" and {each['needed_seeds']} seeds" if each["needed_seeds"] > power["seeds"] else ""
    alone = " by one comparison" if power["comparisons"] > 1 else ""
    needs = f"; {power['detect']:g} needs {each['needed_items']:,} items{seeds}{alone}"
    return needs + (f", {more:,} more" if more else "")


def _model_branch(branch: Tree, stage: Mapping[str, Any], by_id: Mapping[str, Any], seen: set[str]) -> Tree:
    """Add a model; of a merged one, those it is merged from first."""
    shared = stage["id"] in seen
    seen.add(stage["id"])
    if stage["kind"] == "merge":
        for member in stage["inputs"]["models"]:
            if member in by_id and by_id[member]["kind"] != "base":
                _model_branch(branch, by_id[member], by_id, seen)
        text = Text(f"merge {len(stage['inputs']['models'])} models by {stage['component']}  ")
        return branch.add(text.append(f"{stage['short'].split('-')[1][:12]}  ").append(_mark(stage, shared)))
    stage = by_id[stage["inputs"]["training"][0]] if stage["kind"] == "fold" else stage
    return branch.add(_training_line(stage, shared))


def _data_branch(branch: Tree, view: Mapping[str, Any]) -> None:
    by_id = {stage["id"]: stage for stage in view["stages"]}
    for stage in view["stages"]:
        if stage["kind"] in ("base", "render", "tag", "duplicates", "preflight"):
            text = Text(_data_line(stage))
            if stage["kind"] == "render":
                format = by_id[stage["inputs"]["source"][0]]["params"].get("format")
                text.append(f"read as {format}, " if format else "").append(_sizes(stage))
            branch.add(text.append(_mark(stage)))
    overlaps = [stage for stage in view["stages"] if stage["kind"] == "overlap"]
    if overlaps:
        missing = sum(not stage["cached"] for stage in overlaps)
        branch.add(f"overlap with benchmarks and held-out rows: {len(overlaps)} comparisons, {missing} to do")
    _selection_branch(branch, view)


def _selection_branch(branch: Tree, view: Mapping[str, Any]) -> None:
    """Draw what is selected, the losses that it takes, and the models that are trained for it alone."""
    chosen = [stage for stage in view["stages"] if stage["kind"] == "select"]
    if not chosen:
        return
    by_id = {stage["id"]: stage for stage in view["stages"]}
    models = {name for run in view["runs"] for name in run["models"]}
    # Behind folds their trainings, behind merges what they are merged from.
    roles, seen = ("training", "models"), list(models)
    while seen:
        one = by_id.get(seen.pop(), {"inputs": {}})
        found = {name for role in roles for name in one["inputs"].get(role, ())} - models
        models |= found
        seen += found
    for stage in view["stages"]:
        if stage["kind"] == "train" and stage["id"] not in models:
            branch.add(_training_line(stage, shared=False))
    evidence = {one for stage in chosen for ids in stage["inputs"].values() for one in ids}
    scored = [stage for stage in view["stages"] if stage["id"] in evidence and stage["kind"] in ("score", "embed")]
    missing = sum(not stage["cached"] for stage in scored)
    branch.add(f"losses and vectors of rows to select by: {len(scored)} sets, {missing} to do")
    for stage in chosen:
        branch.add(Text(f"select {stage['label']}  ").append(_mark(stage)))


def _data_line(stage: Mapping[str, Any]) -> str:
    kind, label = stage["kind"], stage["label"]
    if stage["component"] == "tokenizer" or kind == "preflight":
        return f"{label}  "
    return f"{kind} {label}{' by ' + stage['component'] if kind == 'tag' else ''}  "


def _sizes(stage: Mapping[str, Any]) -> str:
    tokens = stage["tokens_exact"]
    text = f"{number(stage['rows'], stage['rows_exact'])} rows"
    if stage["total_tokens"]:
        supervised = number(stage["supervised_tokens"], tokens)
        text += f", {supervised} supervised of {number(stage['total_tokens'], tokens)} tokens"
    return f"{text}  "


def _mark(stage: Mapping[str, Any], shared: bool = False) -> Text:
    if shared:
        return Text("shared, trained once above", style="cyan")
    if stage["cached"]:
        return Text("cached", style="green")
    return Text(f"run ({stage['why']})", style="yellow")


def _training_line(stage: Mapping[str, Any], shared: bool) -> Text:
    text = Text(f"train {stage['label']}  {stage['short'].split('-')[1][:12]}  ")
    steps = number(stage["steps"], stage["rows_exact"])
    return text.append(f"{steps} steps, {_sizes(stage)}").append(_mark(stage, shared))


def _print_totals(console: Console, view: Mapping[str, Any]) -> None:
    totals = view["totals"]
    alone, shared = totals["training_seconds_alone"], totals["training_seconds_shared"]
    saved = f", saves {1 - shared / alone:.0%} of training time" if alone > 0 else ""
    console.print(
        f"trainings: {totals['trainings_alone']} if each run trains alone, {totals['trainings']} in this graph{saved}; "
        f"{totals['trainings_to_do']} to do"
    )
    console.print(
        f"trained tokens, all epochs: {number(totals['trained_tokens_alone'], False)} if each run trains alone, "
        f"{number(totals['trained_tokens'], False)} in this graph"
    )
    console.print(
        f"stages: {totals['stages']}, {totals['cached']} cached. Expected: ~{duration(totals['seconds'])}, "
        f"~{size(totals['memory_bytes'])} memory a training, ~{size(totals['disk_bytes'])} disk, "
        f"~{size(totals['disk_peak_bytes'])} at its fullest"
    )
    for asked in view["judges"]:
        requests = number(asked["requests"], asked["requests_exact"])
        console.print(
            Text(
                f"judge {asked['judge']}: {requests} requests, ~{asked['prompt_tokens']:,} tokens to read, "
                f"~{asked['new_tokens']:,} to write; less what the store has of them"
            )
        )
    for sentence in view["assumptions"]:
        console.print(Text(f"  assuming {sentence}", style="dim"))
    if totals["memory_bytes"] >= LARGE:
        _print_memory(console, view["memory"], totals["memory_bytes"])


def _print_memory(console: Console, memory: Mapping[str, Any], total: int) -> None:
    console.print(Text(f"memory of one process of {memory['stage']}, the largest training:"))
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    for item in memory["items"]:
        table.add_row(item["name"], size(item["bytes"]), item["how"])
    table.add_row("together", size(total), "and what allocator and communication need besides")
    console.print(table)


class Progress:
    """Live bars in a terminal; elsewhere a line a stage, and one a minute of those under way.

    Args:
        total: stages to be executed.
        quiet: print nothing.
    """

    def __init__(self, total: int, *, quiet: bool = False) -> None:
        self.live = sys.stderr.isatty() and not quiet
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )
        self.tasks: dict[str, TaskID] = {}
        self.started: dict[str, float] = {}
        self.told: dict[str, float] = {}
        self.whole: TaskID | None = None
        self.done = 0
        self.total = total

    def __enter__(self) -> Progress:
        if self.live:
            self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.bars.stop()

    def listen(self, event: str, stage: Stage, facts: Mapping[str, Any]) -> None:
        """Show one event of the run."""
        if event == "started":
            self.started[stage.id] = self.told[stage.id] = time.monotonic()
        self.done += event == "done"
        if self.quiet:
            return
        if event == "failed":
            self.console.print(Text(f"failed  {stage.short} ({stage.label}): {facts['error']}", style="red"))
            if facts.get("trace"):
                self.console.print(Text(str(facts["trace"]), style="dim"))
        elif "note" in facts:
            self.console.print(Text(f"note  {stage.short} ({stage.label}): {facts['note']}", style="yellow"))
        (self._draw if self.live else self._write)(event, stage, facts)

    def _draw(self, event: str, stage: Stage, facts: Mapping[str, Any]) -> None:
        if self.whole is None:
            self.whole = self.bars.add_task("stages", total=self.total, facts="")
        if event == "started":
            self.tasks[stage.id] = self.bars.add_task(f"{stage.kind} {stage.label}"[:44], total=None, facts="")
        elif event == "progress" and stage.id in self.tasks:
            self.bars.update(
                self.tasks[stage.id], completed=facts.get("step", 0), total=facts.get("steps"), facts=_live(facts)
            )
        elif stage.id in self.tasks:
            self.bars.remove_task(self.tasks.pop(stage.id))
            self.bars.update(self.whole, completed=self.done)

    def _write(self, event: str, stage: Stage, facts: Mapping[str, Any]) -> None:
        if event == "done":
            seconds = time.monotonic() - self.started.get(stage.id, time.monotonic())
            how = "" if facts.get("how") == "executed" else "  (made by another process)"
            if stage.kind in ("train", "load", "render") or seconds > 5:
                self.console.print(f"{self.done}/{self.total} done  {stage.short}  {stage.label}  {seconds:.1f} s{how}")
        elif event == "progress" and "step" in facts:
            now = time.monotonic()
            if now - self.told.get(stage.id, now) >= BEAT_SECONDS:
                self.told[stage.id] = now
                steps = f"{facts['step']}/{facts['steps']}"
                self.console.print(f"{stage.kind} {stage.label}  step {steps}  {_live(facts)}", markup=False)


def _live(facts: Mapping[str, Any]) -> str:
    parts = []
    if "loss" in facts:
        parts.append(f"loss {facts['loss']:.3f}")
    if facts.get("tokens_per_second"):
        parts.append(f"{facts['tokens_per_second']:,.0f} tokens/s")
    if facts.get("seconds_left") is not None:
        parts.append(f"{duration(facts['seconds_left'])} left")
    return "  ".join(parts)


def closing(plan: Plan, store: Store, outcome: Outcome) -> dict[str, Any]:
    """Return what a run came to: final scores by run and ability, and what was done."""
    rows = []
    for item in plan.evaluated:
        if (item.final or item.stage == 0) and store.has("grade", item.grade.id):
            summary = store.manifest("grade", item.grade.id)["summary"]
            rows.append(
                {
                    "run": display_name(item.run, plan) if item.stage else _base_name(item.run, plan),
                    "evaluator": item.evaluator,
                    "ability": item.ability,
                    "metric": item.metric,
                    "mean": summary["mean"],
                    "m": summary.get("m"),
                    "n": summary["n"],
                    "unjudged": summary.get("unjudged", 0),
                    "grade": item.grade.short,
                }
            )
    return {
        "schema": "cuvee.run/1",
        "executed": outcome.executed,
        "elsewhere": outcome.elsewhere,
        "cached": outcome.cached,
        "failed": outcome.failed,
        "skipped": outcome.skipped,
        "stopped": outcome.stopped,
        "unfinished": outcome.unfinished,
        "seconds": round(outcome.seconds, 2),
        "results": rows,
    }


def _base_name(info: RunInfo, plan: Plan) -> str:
    return f"base {info.base}" if len(plan.located.recipe.all_bases) > 1 else "base"


def print_closing(summary: Mapping[str, Any]) -> None:
    """Draw the closing table."""
    console = make_console()
    columns = list(dict.fromkeys((row["evaluator"], row["ability"]) for row in summary["results"]))
    if columns:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("run")
        for evaluator, ability in columns:
            table.add_column(f"{evaluator}\n{ability}", justify="right")
        cells: dict[str, dict[Any, str]] = {}
        for row in summary["results"]:
            cells.setdefault(row["run"], {})[row["evaluator"], row["ability"]] = _cell(row)
        for run, values in cells.items():
            table.add_row(Text(run), *(values.get(column, "") for column in columns))
        console.print(table)
    for note in summary.get("notes", ()):
        console.print(Text(f"note: {note}", style="yellow"))
    elsewhere = f", {len(summary['elsewhere'])} by another process" if summary["elsewhere"] else ""
    console.print(
        f"{len(summary['executed'])} stage(s) executed{elsewhere}, {summary['cached']} cached, "
        f"{len(summary['failed'])} failed, {len(summary['skipped'])} not tried, {duration(summary['seconds'])}"
    )


def _cell(row: Mapping[str, Any]) -> str:
    if row["metric"] == "accuracy":
        return f"{100 * row['mean']:.1f} %  {row['m']}/{row['n']}"
    partial = f"  {row['n']}/{row['n'] + row['unjudged']}" if row["unjudged"] else ""
    return f"{row['mean']:.3f}{partial}"


def print_status(view: Mapping[str, Any]) -> None:
    """Draw the state of a plan's stages; finished ones only as a count."""
    console = make_console()
    console.print(", ".join(f"{count} {state}" for state, count in sorted(view["counts"].items())))
    styles = {"running": "cyan", "failed": "red", "stopped": "yellow"}
    for stage in view["stages"]:
        if stage["state"] in styles:
            line = f"{stage['state']:8} {stage['short']}  {stage['label']}  {stage['note']}"
            console.print(Text(line, style=styles[stage["state"]]))


def print_list(view: Mapping[str, Any]) -> None:
    """Draw rows of plain values as a table."""
    console = make_console()
    if not view["rows"]:
        console.print("nothing yet")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    columns = [name for name in view["rows"][0] if name not in ("finished", "shed")]
    for name in columns:
        table.add_column(name)
    for row in view["rows"]:
        table.add_row(*(Text("" if row[name] is None else str(row[name])) for name in columns))
    console.print(table)


def print_manifest(manifest: Mapping[str, Any]) -> None:
    """Draw a stage's manifest: parameters, inputs, summary, times, place."""
    console = make_console()
    console.print(f"{manifest['kind']}-{manifest['id']}", soft_wrap=True)
    facts = {
        "label": manifest["label"],
        "component": f"{manifest['component']} (version {manifest['identity']['version']})",
        "folder": manifest["folder"],
        "took": f"{manifest['seconds']} s, {manifest['cpu_seconds']} CPU s",
        "attempts": len(manifest.get("attempts", ())),
        "weights given up": manifest.get("shed") or "no",
    }
    for title, values in (
        ("", facts),
        ("params", manifest["identity"]["params"]),
        ("inputs", manifest["inputs"]),
        ("summary", manifest["summary"]),
        ("versions", manifest["versions"]),
    ):
        if title:
            console.print(Text(title, style="bold"))
        for name, value in values.items():
            console.print(Text(f"  {name}: {value}"))


def print_evaluation(view: Mapping[str, Any]) -> None:
    """Draw an evaluation's scores: m/n with the standard error, and what must be known to read them."""
    console = make_console()
    for score in view["scores"]:
        text = f"{score['evaluator']} ({score['ability']}): {score['mean']:.4f}"
        if score["metric"] == "accuracy":
            error = score.get("standard_error")
            text = f"{score['evaluator']} ({score['ability']}): {score['m']}/{score['n']} = {score['mean']:.1%}"
            text += f" ± {error:.1%}" if error is not None else ""
            low, high = score.get("interval") or (None, None)
            text += f" (95 %: {low:.1%} to {high:.1%})" if low is not None else ""
        if "verdicts" in score:
            text = _judged(score)
        console.print(Text(text, style="bold"))
        for line in (*_parts(score), *_caveats(score)):
            console.print(Text(f"  {line}"))


def _judged(score: Mapping[str, Any]) -> str:
    """Return a judged score in a line; win rates are shares."""
    form = "{:.1%}" if score["metric"] == "win_rate" else "{:.2f}"
    text = f"{score['evaluator']} ({score['ability']}): {form.format(score['mean'])}"
    if score.get("standard_error") is not None:
        text += f" ± {form.format(score['standard_error'])}"
    return f"{text}, {score['metric'].replace('_', ' ')} over {score['n']} replies"


def _parts(score: Mapping[str, Any]) -> Iterator[str]:
    """Yield a judged score by turn and by category."""
    form = "{:.1%}" if score["metric"] == "win_rate" else "{:.2f}"
    for name, parts in score.get("by", {}).items():
        if len(parts) > 1:
            shown = [f"{key} {form.format(part['mean'])} ({part['n']})" for key, part in sorted(parts.items())]
            yield f"by {name}: {', '.join(shown)}"


def _verdict_caveats(score: Mapping[str, Any]) -> Iterator[str]:
    told = score["verdicts"]
    if failed := told["failed"]:
        reasons = ", ".join(f"{count} {why}" for why, count in sorted(failed.items()))
        if score["unjudged"]:
            yield (
                f"{score['unjudged']} of {score['replies']} replies have no score, since the judge gave no verdict: "
                f"{reasons}"
            )
        else:
            yield f"{sum(failed.values())} of {told['asked']} verdicts could not be had: {reasons}"
    if told["fallback"]:
        yield (
            f"{told['fallback']} of {told['asked']} verdicts were read from single brackets, which may be anything; "
            "fallback: false leaves them out"
        )
    if "win" in told:
        yield (
            f"{told['win']} won, {told['loss']} lost, {told['tie']} tied, {told['inconsistent']} changed with the "
            f"order; {told['first_preferred']} of {told['asked']} verdicts were for what stood first"
        )
    if "repeat_means" in told:
        means = ", ".join(f"{mean:.3f}" for mean in told["repeat_means"])
        yield f"means of the judge's repeats: {means} (SD {told['repeat_sd']:.3f})"


def _caveats(score: Mapping[str, Any]) -> Iterator[str]:
    if "verdicts" in score:
        yield from _verdict_caveats(score)
    if score["n"] < score["full"]:
        yield f"{score['n']} of the benchmark's {score['full']} items: not comparable with published scores"
    replies = score.get("replies", score["n"])
    told = {
        "unread": f"of {replies} replies held nothing that could be read as an answer",
        "cut": f"of {replies} replies were cut at max_new_tokens",
        "given_up": "replies took math-verify too long and count as unread",
        "shortened": "replies were so long that only their beginning was looked at for code",
        "inputs_skipped": "inputs judge nothing, since the reference itself raises there",
        "context_cut": "items were too long for the model, and their contexts lost the beginning",
        "same": "choices equal another one of their item",
        "repeated": "rows of the file repeat an item and are asked once",
        "repaired": "replies held broken Unicode, which was replaced",
    }
    yield from (f"{score[name]} {text}" for name, text in told.items() if score.get(name))
    odd = {word: count for word, count in score.get("finish", {}).items() if word not in ("stop", "length")}
    yield from (f"{count} replies ended as the server says: {word or 'no reason'}" for word, count in odd.items())
    if score.get("isolated") is False:
        yield "the code ran WITHOUT a sandbox"
    if score.get("note"):
        yield score["note"]


def print_rows(view: Mapping[str, Any]) -> None:
    """Draw the rows behind a stage; of a model, a line a training and source first."""
    console = make_console()
    if view["summary"]:
        console.print(_seen(view["summary"]))
    for row in view["rows"]:
        console.print(Text(_row_line(row)), soft_wrap=True)
    if view["found"] > len(view["rows"]):
        console.print(
            f"... {view['found'] - len(view['rows']):,} more; --find TEXT searches, --out writes a model's rows"
        )
    if not view["found"]:
        console.print("no such rows")


def _seen(summary: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("stage", "source", "rows", "times", "supervised tokens"):
        table.add_column(name, justify="left" if name in ("stage", "source") else "right")
    for line in summary:
        counts = (number(line[name]) for name in ("rows", "times", "supervised_tokens"))
        table.add_row(Text(line["stage"]), Text(line["source"]), *counts)
    return table


def _row_line(row: Mapping[str, Any]) -> str:
    if "steps" in row:
        steps = ", ".join(map(str, row["steps"]))
        place = f"{row['path']}:{row['line']}"
        return f"{row['stage']}  {place}  {row['id'][:12]}  {row['times']} time(s), steps {steps}"
    # Control characters of the data must not reach the terminal.
    return "  ".join(f"{key}: {value!r}" if isinstance(value, str) else f"{key}: {value}" for key, value in row.items())
