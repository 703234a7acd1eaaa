"""Studies: the questions of the papers as recipes for any sources and base, with comments.

    text = write("mixing", head(None))              # on what ships with cuvee
    text = write("mixing", head(Path("my.yaml")))   # on the base, sources, training and evaluation of a recipe

Shares are those of Dong et al., arXiv 2310.05492. Runs that are equal across studies are trained once in one store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import permutations
from pathlib import Path
from typing import Any

import yaml

from cuvee import cost, planner
from cuvee import recipe as recipes
from cuvee.errors import RecipeError, UsageError, did_you_mean
from cuvee.pins import Pins
from cuvee.runtime import Runtime
from cuvee.store import Store

SHARES = ("1", "1/4", "1/16", "1/64", "1/256")

SURELY = Fraction(6, 5)
"""Rows of the smallest source at a share that a study uses; rows are estimates before the data is read."""

BUILTIN = """\
base: builtin:tiny                # a Hugging Face folder, a hub id such as org/name@revision, builtin:smollm2

sources:                          # put your own files and abilities in their places
  math:    {path: "builtin:math",    ability: math,    amount: {count: 4096}}
  code:    {path: "builtin:code",    ability: code,    amount: {count: 2560}}
  general: {path: "builtin:general", ability: general, amount: {count: 3072}}

heldout: 0.05                     # of the prompts, never trained on, in any source, at any seed
training: {epochs: 1, learning_rate: 1.5e-3, batch_size: 16, max_length: 256}

evaluation:
  - {heldout_loss: {items: 200}}
  - {exact_answer: {items: 200, stages: all, max_new_tokens: 96}}

seeds: [0]                        # [0, 1, 2] shows what another training would give
"""

OWN = ("runs", "analyses")
"""Top-level keys that a study writes itself."""


@dataclass(frozen=True)
class Head:
    """What a study is asked about.

    Args:
        text: the recipe without runs and analyses.
        sources: as written, by name.
        general: name of the general source.
        rows: of each source that a training would see, where they are known.
    """

    text: str
    sources: Mapping[str, Any]
    general: str
    rows: Mapping[str, int]

    @property
    def special(self) -> list[str]:
        """The other sources, in order."""
        return [name for name in self.sources if name != self.general]

    @property
    def shares(self) -> list[str]:
        """Those of the paper's shares at which every source still has a row; all where rows are not known."""
        least = min(self.rows.values(), default=None)
        return [share for share in SHARES if least is None or Fraction(share) * least >= SURELY] or list(SHARES[:1])


@dataclass(frozen=True)
class Study:
    """One question: what it asks, where it is from, its runs as lines of YAML, its analyses, how it has to change
    the recipe that it is asked about, and which runs (by their names) are compared with which."""

    asks: str
    source: str
    runs: Callable[[Head], list[str]]
    analyses: tuple[str, ...]
    adapted: Callable[[Head], str] = lambda head: head.text.strip()
    pairs: Callable[[Head], Mapping[str, str]] = lambda head: {}

    def asked(self, head: Head) -> str:
        """Return the analyses as YAML; runs that are to be compared in pairs are named to the strategy table."""
        pairs = yaml.safe_dump(dict(self.pairs(head)), default_flow_style=True, sort_keys=False, width=10_000).strip()
        own = {"strategy_table": f"{{strategy_table: {{references: {pairs}}}}}"} if self.pairs(head) else {}
        return ", ".join(own.get(name, name) for name in self.analyses)


# --------------------------------------------------------------------------------- changes to what is asked about


def _tagged(head: Head) -> str:
    """The head with a tagger on the general source, where it has no tags yet."""
    source = head.sources[head.general]
    if source.get("tags") or source.get("taggers"):
        return head.text.strip()
    sources = {**head.sources, head.general: {**source, "taggers": ["rules"]}}
    return _with_sources(
        head, sources, "`rules` finds code and mathematics by what stands in a row; instag asks a model"
    )


def _without_amounts(head: Head) -> str:
    """The head with whole sources: an amount is taken of what is chosen, and a few per cent have no 4,096 rows."""
    if not any(source.get("amount") for source in head.sources.values()):
        return head.text.strip()
    sources = {
        name: {key: value for key, value in source.items() if key != "amount"} for name, source in head.sources.items()
    }
    note = "whole: rows are chosen before any amount; pool: {count: 5000} in a select looks at so many of each"
    return _with_sources(head, sources, note)


def _with_sources(head: Head, sources: Mapping[str, Any], note: str) -> str:
    flow = {
        name: yaml.safe_dump(value, default_flow_style=True, width=10_000).strip() for name, value in sources.items()
    }
    body = "\n".join(f"  {_quoted(name)}: {text}" for name, text in flow.items())
    return f"{_without(head.text, ('sources',)).strip()}\n\nsources:                          # {note}\n{body}"


# --------------------------------------------------------------------------------------------------- runs


def _amount(head: Head) -> list[str]:
    return [f"{{strategy: single, source: {_list(head.sources)}, share: {_flow(head.shares)}}}"]


def _mixing(head: Head) -> list[str]:
    return [*_amount(head), f"{{strategy: multi_task, share: {_flow(head.shares)}}}"]


def _ratio(head: Head) -> list[str]:
    general, shares = f"strategy: ratio, general: {_quoted(head.general)}", _flow(head.shares)
    little = "1/64" if "1/64" in head.shares else head.shares[-1]
    return [
        f"{{{general}, special_share: {shares}}}                      # all of general, special grows",
        f"{{{general}, general_share: {shares}}}                      # all of special, general grows",
        f"{{{general}, general_share: {little}, special_share: {shares}}}    # a little general, special grows",
    ]


def _strategies(head: Head) -> list[str]:
    general = _quoted(head.general)
    return [
        f"{{strategy: single, source: {_list(head.sources)}}}",
        "{strategy: multi_task}",
        f"{{strategy: sequential, order: {_list(_order(head))}}}",
        f"{{strategy: mixed_sequential, general: {general}}}",
        f"{{strategy: dmt, general: {general}, k: {head.shares[-1]}}}",
    ]


def _k_sweep(head: Head) -> list[str]:
    general = _quoted(head.general)
    return [
        "{strategy: multi_task}                                       # the line to compare with",
        f"{{strategy: mixed_sequential, general: {general}}}              # k = 0",
        f"{{strategy: dmt, general: {general}, k: {_flow(head.shares[::-1])}}}",
    ]


def _without_tagged(head: Head) -> list[str]:
    others = "".join(f"{_quoted(name)}: {{}}, " for name in head.special)
    drop = f'{{{others}{_quoted(head.general)}: {{drop: {{tags: "code|math"}}}}}}'
    return [
        f"{{strategy: multi_task, share: {_flow(head.shares)}}}",
        f"{{strategy: multi_task, name: without tagged, share: {_flow(head.shares)},\n     sources: {drop}}}",
    ]


def _tagged_pairs(head: Head) -> dict[str, str]:
    return {f"without tagged share={share}": f"multi_task share={share}" for share in head.shares}


def _equal_amount(head: Head) -> list[str]:
    kept = _equal_counts(head)
    return [
        f"{{strategy: multi_task, share: [{', '.join(share for share, _ in kept)}]}}      # equal proportions",
        f"{{strategy: multi_task, count: [{', '.join(str(count) for _, count in kept)}]}}      # as many rows in all, "
        "equal numbers of each source",
    ]


def _equal_pairs(head: Head) -> dict[str, str]:
    return {f"multi_task count={count}": f"multi_task share={share}" for share, count in _equal_counts(head)}


def _equal_counts(head: Head) -> list[tuple[str, int]]:
    """Return shares, and the count of each source that makes as many rows in all."""
    shares = (("1/4", 4), ("1/16", 16), ("1/64", 64))
    least, total, number = min(head.rows.values(), default=0), sum(head.rows.values()), len(head.sources)
    pairs = [(share, total // (number * divisor)) for share, divisor in shares]
    kept = [(share, count) for share, count in pairs if 0 < count <= least]
    if not kept:
        raise UsageError(
            f"equal_amount: the smallest source has {least:,} of {total:,} rows, less than an equal part of 1/64 of "
            "all; leave it out, or choose counts by hand: {strategy: multi_task, count: [100, 400]}"
        )
    return kept


def _orders(head: Head) -> list[str]:
    names = list(head.sources)
    found = list(permutations(names)) if len(names) <= 3 else [tuple(names[i:] + names[:i]) for i in range(len(names))]
    return ["{strategy: multi_task}", *(f"{{strategy: sequential, order: {_list(order)}}}" for order in found)]


def _disperse(head: Head) -> list[str]:
    return [
        "{strategy: multi_task}                                       # everything in one training, as many tokens",
        "{strategy: disperse_then_merge, portions: [2, 8], merger: linear}",
        "{strategy: disperse_then_merge, portions: 4, merger: [linear, ties, task_arithmetic, dare_linear]}",
    ]


def _alignment_tax(head: Head) -> list[str]:
    marked = "training: {marks: [1/16, 1/8, 1/4, 1/2, 3/4]}"
    return [
        f"{{strategy: multi_task, {marked}}}     # measured on the way by evaluators with stages: all",
        f"{{strategy: disperse_then_merge, portions: 4, merger: linear, {marked}}}",
    ]


def _selection(head: Head) -> list[str]:
    return [
        "{strategy: multi_task}                                       # all rows; the reference of LoBaSS",
        "{strategy: multi_task, select: [{by: random, share: 0.06}, {by: lobass, share: 0.06}]}",
        "{strategy: multi_task, select: [{by: random, share: 1/6}, {by: lobass, share: 1/6}]}",
    ]


def _dmt(head: Head) -> list[str]:
    """Every run of RQ1 to RQ4 and the k sweep, each line once; shares of 1 stand in the first lines."""
    strategies = [line for line in _strategies(head) if "single" not in line and "dmt" not in line]
    lines = [line for part in (_mixing(head), _ratio(head), strategies, _k_sweep(head)) for line in part]
    return list(dict.fromkeys(line.split("   ")[0] for line in lines))


def _order(head: Head) -> list[str]:
    """The paper's: code, math, general; here the special sources from the last to the first."""
    return [*reversed(head.special), head.general]


PAPER = "Dong et al., arXiv 2310.05492"

STUDIES: Mapping[str, Study] = {
    "amount": Study(
        "How does each ability grow with its data? Each source alone at five shares.",
        f"{PAPER}, section 3.2 (RQ1)",
        _amount,
        ("scaling", "scores", "claims"),
    ),
    "mixing": Study(
        "Do abilities help or hurt each other when mixed? Each source alone and all together, at equal shares.",
        f"{PAPER}, section 3.3 (RQ2)",
        _mixing,
        ("conflicts", "scaling", "scores", "claims"),
    ),
    "ratio": Study(
        "Does the ratio between special and general data matter, or the amount? One side held, the other grows.",
        f"{PAPER}, section 3.4 (RQ3)",
        _ratio,
        ("ratio_effect", "scores", "claims"),
    ),
    "strategies": Study(
        "Which strategy keeps all abilities?",
        f"{PAPER}, section 3.5 (RQ4), table 1",
        _strategies,
        ("scores", "strategy_table", "forgetting", "cost", "claims"),
    ),
    "k_sweep": Study(
        "How much of the special sources does the second stage have to repeat?",
        f"{PAPER}, section 4.3, table 5",
        _k_sweep,
        ("k_sweep", "scores", "forgetting", "claims"),
    ),
    "without_tagged": Study(
        "Do conflicts come from code and mathematics inside the general data? The same without rows tagged so.",
        f"{PAPER}, section 4.2, table 6",
        _without_tagged,
        ("strategy_table", "scaling", "scores"),
        _tagged,
        _tagged_pairs,
    ),
    "equal_amount": Study(
        "Equal proportions of every source, or equal numbers of rows?",
        f"{PAPER}, version 4, appendix H",
        _equal_amount,
        ("strategy_table", "scores", "scaling"),
        pairs=_equal_pairs,
    ),
    "order": Study(
        "Does the order of sequential training matter?",
        "No paper: Dong et al. (arXiv 2310.05492) try code, math, general alone",
        _orders,
        ("scores", "forgetting", "strategy_table", "claims"),
    ),
    "disperse": Study(
        "Is it better to train on portions and merge, and by which merger?",
        "Fu et al., arXiv 2405.13432",
        _disperse,
        ("scores", "strategy_table", "cost", "claims"),
    ),
    "alignment_tax": Study(
        "What does the rest of a training take back of what its first part has taught, and does merging avoid it?",
        "Fu et al., arXiv 2405.13432, pilot study",
        _alignment_tax,
        ("alignment_tax", "scores", "claims"),
    ),
    "selection": Study(
        "Do a few chosen rows teach as much as all of them?",
        "Zhou et al. (LoBaSS), arXiv 2310.13008",
        _selection,
        ("scores", "strategy_table", "against_random", "selections", "cost", "claims"),
        _without_amounts,
    ),
    "dmt": Study(
        "All of it: amounts, mixing, ratios, strategies and k in one store, where equal trainings are done once.",
        f"{PAPER}, sections 3.2 to 4.3",
        _dmt,
        ("scores", "scaling", "conflicts", "ratio_effect", "strategy_table", "k_sweep", "forgetting", "cost", "claims"),
    ),
}


def write(name: str, head: Head) -> str:
    """Return a study's recipe as text.

    Raises:
        UsageError: there is no such study, or the sources do not allow it.
    """
    study = STUDIES[find(name)]
    if not head.special:
        raise UsageError(f"the study '{name}' compares sources, and there is only '{head.general}'; name a second one")
    lines = [
        f"# Study {name}. {study.asks}",
        f"# {study.source}.",
        *_left_out(head),
        "#   cuvee plan THIS.yaml       what it comes to, what it costs, what it can show",
        "#   cuvee run THIS.yaml        do it, and write the report",
        "",
        study.adapted(head),
        "",
        "runs:                             # a list is one run each",
        *(f"  - {line}" for line in study.runs(head)),
        "",
        f"analyses: [{study.asked(head)}]",
        "keep_models: none                 # scores stay; all keeps every model's weights",
    ]
    return "\n".join(lines) + "\n"


def _left_out(head: Head) -> list[str]:
    """Say which of the paper's shares would leave a source without a row."""
    without = [share for share in SHARES if share not in head.shares]
    if not without:
        return []
    least = min(head.rows, key=lambda name: head.rows[name])
    return [f"# Of the paper's shares {', '.join(without)} left out: {least} has about {head.rows[least]:,} rows."]


def find(name: str) -> str:
    """Return a study's name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in STUDIES:
        raise UsageError(f"there is no study '{name}'.{did_you_mean(name, STUDIES)}")
    return name


def counted(head: Head, folder: Path, store: Store) -> Head:
    """Return a head that knows how many rows a training on each source would see, from a plan of them.

    Args:
        folder: what paths in the recipe are relative to.
        store: where sources that were read already lie.
    """
    single = {"strategy": "single", "source": list(head.sources)}
    data = {**recipes.parse(head.text)[0], "runs": [single], "analyses": []}
    located = recipes.Located(recipes.validate(recipes.Recipe, data), folder)
    plan = planner.make(located, Pins(store.pins, folder / "recipe.lock"))
    sizes = cost.estimate(plan, store, Runtime(store.folder)).sizes
    rows = {run.info.params["source"]: sizes[run.own_trainings[0].one("data").id].rows for run in plan.runs}
    return replace(head, rows=rows)


def head(path: Path | None, general: str | None = None) -> Head:
    """Return what a study is asked about: a recipe's base, sources, training and evaluation, or what ships with cuvee.

    Raises:
        UsageError: the recipe cannot be read, has no sources, or `general` is none of them.
    """
    if path is not None:
        recipes.load(path, ["runs=[{strategy: multi_task}]", "analyses=[]"])  # it need not have any of its own
    text = BUILTIN if path is None else path.read_text(encoding="utf-8")
    data, _ = recipes.parse(text, str(path or ""))
    sources = data.get("sources") or {}
    if not sources:
        raise RecipeError("a study compares sources, and the recipe has none", key="sources", where=str(path or ""))
    if general is not None and general not in sources:
        raise UsageError(f"there is no source '{general}'.{did_you_mean(general, sources)}")
    return Head(_without(text, (*OWN, "keep_models")), sources, general or _general(sources), {})


def _general(sources: Mapping[str, Any]) -> str:
    """The source called general, else the one that teaches it, else the last."""
    taught = [name for name, source in sources.items() if source.get("ability") == "general"]
    return "general" if "general" in sources else taught[0] if taught else list(sources)[-1]


def _without(text: str, keys: Sequence[str]) -> str:
    """Return a recipe's text without some top-level keys; comments above a key go with it."""
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        if line and not line[0].isspace() and not line.startswith(("#", "-")):
            above = blocks[-1]
            start = len(above)
            while start and above[start - 1].startswith("#"):
                start -= 1
            blocks.append([*above[start:], line])
            del above[start:]
        else:
            blocks[-1].append(line)
    kept = [block for block in blocks if not any(line.split(":")[0] in keys for line in block if line[:1].strip())]
    return "\n".join(line for block in kept for line in block)


def _list(names: Iterable[str]) -> str:
    return f"[{', '.join(_quoted(name) for name in names)}]"


def _flow(values: Iterable[str]) -> str:
    return f"[{', '.join(values)}]"


def _quoted(name: str) -> str:
    """A name as YAML takes it inside a flow sequence."""
    return yaml.safe_dump([name], default_flow_style=True, width=10_000).strip()[1:-1]
