"""Commands on models."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import click

from cuvee.cli.options import json_option, store_option
from cuvee.cli.steps import echo
from cuvee.errors import UsageError


class _Greedy(click.Command):
    """Lets some options take all values that follow: ``--weights 0.5 0.5``."""

    TAKES: ClassVar[dict[str, Callable[[str], bool]]] = {
        "--weights": lambda text: bool(re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?(/\d+)?", text, re.IGNORECASE)),
        "--fishers": lambda text: not text.startswith("-"),
    }

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        found: list[str] = []
        taking = ""
        for text, after in zip(args, [*args[1:], ""], strict=True):
            if taking and self.TAKES[taking](text):
                found += [taking, text]
                continue
            taking = text if text in self.TAKES else ""
            # What takes nothing stays, so that it is missed, and not passed over.
            found += [] if taking and self.TAKES[taking](after) else [text]
        return super().parse_args(ctx, found)


def _numbers(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[float, ...]:
    """Return numbers, which may be written as fractions such as 1/4."""
    found = []
    for value in values:
        try:
            found.append(float(Fraction(value)))
        except (ValueError, ZeroDivisionError, OverflowError):
            raise click.BadParameter(
                f"{value!r} is no number; give one a model with spaces between: --weights 0.25 0.75", ctx, param
            ) from None
    return tuple(found)


@click.command(cls=_Greedy)
@click.argument("method")
@click.argument("models", nargs=-1, required=True, metavar="MODEL... [KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the merged model.")
@click.option("--base", metavar="MODEL", help="What the models were trained from; ties, dare_*, wise_ft ... need it.")
@click.option(
    "--weights", multiple=True, callback=_numbers, metavar="NUMBER...", help="One a model; all equal when absent."
)
@click.option("--fishers", multiple=True, metavar="DIR...", help="One a model: folders, or stages such as fisher-3f9a.")
@click.option("--threads", type=click.IntRange(0), default=0, help="CPU threads; 0 takes all cores.")
@click.option("--shard-size", type=float, default=5.0, show_default=True, metavar="GB", help="Largest file.")
@click.option("--dry-run", is_flag=True, help="Check everything, say what it takes, write nothing.")
@store_option
@json_option
def merge(
    method: str,
    models: tuple[str, ...],
    out: Path,
    base: str | None,
    weights: tuple[float, ...],
    fishers: tuple[str, ...],
    threads: int,
    shard_size: float,
    dry_run: bool,
    store: Path,
    as_json: bool,
) -> None:
    """Merge models into one: folders, builtin models, or stages of the store such as train-3f9a1c20.

    Everything is checked, and the memory that will be used is said, before anything is written. `cuvee list
    components` lists the methods.

    \b
    cuvee merge linear A B --weights 0.5 0.5 --out merged
    cuvee merge ties A B C --base BASE --out merged density=0.2
    cuvee merge slerp A B --out merged 'tensors={"*.mlp.*": {t: 0.3}}'
    cuvee merge lora_mean_of_products ADAPTER_1 ADAPTER_2 --base BASE --out merged
    """
    from cuvee import mergings
    from cuvee.recipe import override

    if not 0 < shard_size < float("inf"):
        raise UsageError(f"--shard-size {shard_size:g}: is no size; give a number of GB above 0")
    # A folder may have an equals sign in its name.
    settings = [one for one in models if "=" in one and not Path(one).exists()]
    given = override({}, settings)
    if weights:
        given["weights"] = list(weights)

    def say(facts: Mapping[str, Any]) -> None:
        if "note" in facts:
            click.echo(facts["note"], err=as_json)

    summary = mergings.command(
        method,
        [one for one in models if one not in settings],
        given,
        out,
        store,
        base=base,
        fishers=fishers,
        threads=threads,
        shard_bytes=max(1, int(shard_size * 1e9)),
        dry=dry_run,
        progress=say,
    )
    if as_json:
        echo({"schema": "cuvee.merge/1", "out": str(out), "written": not dry_run, **summary})
    else:
        click.echo(f"nothing is written; without --dry-run {out} would be" if dry_run else f"wrote {out}")
