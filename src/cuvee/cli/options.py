"""Options that commands share; those that say how to run reach a command as one `Runtime`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from cuvee.runtime import Runtime

HOW = frozenset(each.name for each in fields(Runtime))


def takes_runtime(command: Callable[..., Any]) -> Callable[..., Any]:
    """Hand a command its options named like fields of `Runtime` as one argument `runtime`; stands below all options."""

    @functools.wraps(command)
    def gathered(**given: Any) -> Any:
        how = {name: given.pop(name) for name in HOW & given.keys()}
        return command(runtime=Runtime(**how), **given)

    return gathered


def store_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--store",
        type=click.Path(path_type=Path),
        default=Path(".cuvee"),
        show_default=True,
        envvar="CUVEE_STORE",
        help="Folder of finished stages.",
    )(command)


def recipe_arguments(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")(command)
    return click.argument("recipe", type=click.Path(path_type=Path))(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)


def accept_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--accept",
        multiple=True,
        metavar="NAME",
        help="Train although a check speaks against it, such as overlap/math/gsm8k; written in the model's lineage.",
    )(command)


def runtime_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
        click.option("--threads", type=click.IntRange(0), default=0, help="CPU threads a worker; 0 divides the cores."),
        click.option("--workers", type=click.IntRange(0), default=0, help="Stages at once; 0 decides by the machine."),
    ):
        command = option(command)
    return command


def processes_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--shard",
            type=click.Choice(["fsdp", "ddp"]),
            default="fsdp",
            show_default=True,
            help="Of several processes each holds its part of the model, or all of it.",
        ),
        click.option(
            "--processes",
            type=click.IntRange(1),
            default=1,
            show_default=True,
            help="Processes that train one model together, one a GPU.",
        ),
    ):
        command = option(command)
    return command


def passes_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--checkpoint-activations", is_flag=True, help="Less memory for more time: activations computed twice."
        ),
        click.option(
            "--micro-tokens", type=click.IntRange(1), default=4096, show_default=True, help="Tokens a forward pass."
        ),
    ):
        command = option(command)
    return command


def training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--step-sleep", type=float, default=0.0, hidden=True),
        click.option(
            "--track", multiple=True, metavar="NAME", help="Curves of trainings besides their log: tensorboard."
        ),
        click.option(
            "--kernels", type=click.Choice(["stock", "liger", "cut"]), default="stock", help="GPU kernels of trainings."
        ),
        click.option("--checkpoint-steps", type=click.IntRange(0), default=0, help="Steps between two checkpoints."),
        click.option(
            "--checkpoint-seconds", type=float, default=60.0, show_default=True, help="Between two checkpoints."
        ),
    ):
        command = option(command)
    return command


generator_option = click.option(
    "--generator",
    type=click.Choice(["local", "vllm"]),
    default="local",
    show_default=True,
    help="What writes answers: our own loop, or vLLM where it is installed.",
)
