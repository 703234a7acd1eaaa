"""The command line: parses, calls one function each, prints errors. Exit codes: 0 ok, 1 work failed, 2 wrong use."""

from cuvee.cli.group import app, main

__all__ = ["app", "main"]
