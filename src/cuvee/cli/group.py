"""The group of all commands, and the errors that a user sees."""

from __future__ import annotations

import sys
from typing import Any

import click

from cuvee.cli.models import merge
from cuvee.cli.recipes import init, inspect, plan, preflight, select
from cuvee.cli.runs import evaluate, report, run
from cuvee.cli.stages import gc, list_, show, status, why
from cuvee.errors import CuveeError, UsageError, did_you_mean

INTERRUPTED = 130


class _Group(click.Group):
    """Suggests the nearest command."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None:
            raise UsageError(f"there is no command '{args[0]}'.{did_you_mean(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cuvee", prog_name="cuvee")
def app() -> None:
    """Blend supervised fine-tuning data on purpose: one recipe in, a report out.

    \b
    cuvee init recipe.yaml      write a small recipe
    cuvee inspect recipe.yaml   the rows as the model will see them
    cuvee preflight recipe.yaml checks of masks, lengths, duplicates, leaks
    cuvee plan recipe.yaml      what it comes to, and what it costs
    cuvee select recipe.yaml    rows chosen by what a model can learn from them
    cuvee run recipe.yaml       do what is missing, and write the report
    """


for command in (init, plan, run, preflight, inspect, select, report, evaluate, merge, status, why, list_, show, gc):
    app.add_command(command)


def main() -> None:
    """Run the command line; errors of the user show no traceback."""
    try:
        app(standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("\nstopped; finished stages and checkpoints are kept, the same command goes on", err=True)
        sys.exit(INTERRUPTED)
    except CuveeError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        click.echo(f"error: {error}; mend it and run the same command again", err=True)
        sys.exit(1)
