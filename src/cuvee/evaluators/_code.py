"""From a reply to a program: what of a chat reply is code, and what judges it.

**Reply to completion** (`completion`). Line ends become ``\\n``; of a reply only the first 65,536 characters are looked
at. Then the first rule that applies:

1. *fenced function*. A fence is a line of three or more backticks or tildes; the block ends at the next line of at
   least as many, or with the reply. Blocks marked as another language (``bash``, ``text``, ``output``, ...) do not
   count. Taken is the FIRST block that defines the entry point at its outermost indentation: later ones are variants
   and usage. Its imports and helpers stay.
2. *bare function*. No such block, but a line ``def ENTRY(`` outside of any indentation: from the first line that
   starts with ``import``, ``from``, ``def``, ``class``, ``async`` or ``@``, or where that is prose from the
   function's own, up to the last line at which the text still parses; what follows is prose.
3. *fenced body*. The reply does not start with an indented line and has a Python block: the first one, as the body of
   the prompt's function (rule 4 for its indentation and end).
4. *body*. The whole reply continues the prompt. It is indented by four spaces if its first line has no indentation,
   and otherwise ends before the first later line without indentation at which prompt and body parse: a next function,
   a call, prose. This stands in for the stop strings of base models (``\\ndef``, ``\\nclass``, ``\\n#``, ``\\nif``,
   ``\\nprint``; Chen et al., arXiv 2107.03374, section 2.1). The functions that a prompt holds besides (HumanEval 10,
   32, 38 and 50) are not touched by it: only the reply is cut.

Example calls in a block are run as written, and one that raises fails the program, as in the published harness.

**HumanEval** (`humaneval`). Program: prompt, completion, newline, test, newline, ``check(ENTRY)`` (Chen et al., code
of the harness). A completion that repeats the function replaces the prompt's, whose imports and helpers stand before
it. The tests see the completion's entry point and the prompt's own helpers: a completion that replaces a helper by a
kinder one changes nothing for the tests.

**MBPP** (`mbpp`). The request shows the text and all tests, as published (Austin et al., arXiv 2108.07732, section
3.1). Program: code, `test_setup_code`, `test_list`; the setup stands after the code since it uses its classes. The
tests take from the code only names that the reference solution defines too.

**HumanEval+ and MBPP+** (`against_reference`). Inputs are run through the reference solution, by the judge, and
through the code; the results must be equal, numbers within `atol` (1e-6 for floats when it is 0) plus 1e-7 of the
expected (Liu et al., arXiv 2305.01210, code of the harness); where the reference returns an object, such as a match of
a regular expression, the code must return something. Inputs stored as JSON have lists where a task wants tuples or
sets; `reshape` turns them back. Inputs at which the reference itself raises judge nothing and are left out, and
`skipped` counts them; an item with no other input is failed by every reply.
"""

from __future__ import annotations

import ast
import json
import re
import textwrap
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from cuvee.sandbox import Program

PYTHON = {"", "python", "py", "python3", "python2", "pycon"}
FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+.#-]*)[^\n`]*$")
LONGEST = 1 << 16
"""Characters of a reply that are looked at for code."""

TRIES = 200
"""Most cuts that are tried to find where code ends: parsing a long reply again and again takes its square."""

CODE_START = re.compile(r"^(import |from |def |class |async |@)")


class Completion(NamedTuple):
    """What follows the prompt, and the rule that found it."""

    text: str
    rule: str


def completion(prompt: str, reply: str, entry_point: str) -> Completion:
    """Return what of a reply continues a prompt; see the module for the rules.

    Args:
        prompt: the start of the program, empty when the reply is a program of its own.
        reply: the model's text.
        entry_point: name of the function that is asked for.
    """
    reply = reply.replace("\r\n", "\n").replace("\r", "\n")[:LONGEST]
    blocks = fenced(reply)
    for block in blocks:
        if _defines(block, entry_point):
            return Completion(f"\n{block}\n", "fenced function")
    if _defines(reply, entry_point):
        return Completion(f"\n{_bare(reply, entry_point)}\n", "bare function")
    continues = reply.lstrip("\n")[:1].isspace()
    text, rule = (blocks[0], "fenced body") if blocks and not continues else (reply, "body")
    if not prompt:
        return Completion(text, rule)
    return Completion(_body(prompt, text), rule)


def fenced(reply: str) -> list[str]:
    """Return the Python blocks of a reply, outermost indentation removed."""
    blocks: list[str] = []
    lines: list[str] = []
    mark = language = ""
    for line in [*reply.split("\n"), None]:
        match = FENCE.match(line) if line is not None else None
        closes = line is None or (match is not None and match[1].startswith(mark) and not match[2])
        if mark and closes:
            if language.lower() in PYTHON:
                blocks.append(textwrap.dedent("\n".join(lines)))
            mark = ""
        elif mark:
            lines.append(str(line))
        elif match:
            mark, language, lines = match[1], match[2], []
    return blocks


def _defines(text: str, name: str) -> bool:
    return re.search(rf"^(async\s+)?def\s+{re.escape(name)}\s*\(", text, re.MULTILINE) is not None


def _bare(reply: str, entry_point: str) -> str:
    lines = reply.split("\n")
    start = next(index for index, line in enumerate(lines) if CODE_START.match(line))
    for begin in [start, *_definitions(lines, entry_point)[:TRIES]]:
        text = _longest_code(lines[begin:])
        if _defines(text, entry_point):
            return text
    return "\n".join(lines[start:])


def _longest_code(lines: Sequence[str]) -> str:
    """Return the longest beginning of lines that parses; empty where none is found in `TRIES`."""
    end = len(lines)
    for _ in range(TRIES):
        text = "\n".join(lines[:end])
        error = _fault(text)
        if error is None:
            return text
        # What comes after the line of the error cannot mend it.
        end = error if 0 < error < end else end - 1
        if end <= 0:
            break
    return ""


def _definitions(lines: Sequence[str], name: str) -> list[int]:
    return [index for index, line in enumerate(lines) if _defines(line, name)]


def _body(prompt: str, text: str) -> str:
    lines = text.strip("\n").split("\n")
    if lines[0].strip() and not lines[0][0].isspace():
        return textwrap.indent("\n".join(lines), "    ") + "\n"
    ends = [index for index, line in enumerate(lines) if line and not line[0].isspace()]
    for end in ends[:TRIES]:
        body = "\n".join(lines[:end])
        if _parses(prompt + body):
            return body + "\n"
    return "\n".join(lines[: ends[0]] if ends and not _parses(prompt + text) else lines) + "\n"


def _parses(text: str) -> bool:
    return _fault(text) is None


def _fault(text: str) -> int | None:
    """Return the line at which text does not parse, 0 where that is not known; None where it parses."""
    try:
        _tree(text)
    except SyntaxError as error:
        return error.lineno or 0
    except (ValueError, RecursionError, MemoryError):
        return 0
    return None


def _tree(text: str) -> ast.Module:
    """Parse code of others, whose doubtful escapes are no concern of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text.replace("\r\n", "\n"))


def humaneval_question(prompt: str) -> str:
    """Return the request for a chat model; the published harness has none, this wording is ours."""
    return (
        "Complete the following Python function. Answer with the whole function, imports included, in one code "
        f"block.\n\n```python\n{prompt.rstrip()}\n```"
    )


def humaneval(prompt: str, test: str, entry_point: str, completed: str) -> Program:
    """Return the program of a HumanEval row and a completion (prompt excluded)."""
    helpers = prompt if _parses(prompt) else f"{prompt}    pass\n"
    return Program(prompt + completed, f"{test}\ncheck({entry_point})", (entry_point,), helpers)


def mbpp_question(text: str, tests: Sequence[str]) -> str:
    """Return the published request of a task (Austin et al., arXiv 2108.07732, section 3.1)."""
    listed = "\n".join(tests)
    return (
        f"You are an expert Python programmer, and here is your task: {text} "
        f"Your code should pass these tests:\n\n{listed}"
    )


def mbpp(code: str, tests: Sequence[str], setup: str, reference: str) -> Program:
    """Return the program of an MBPP task.

    Args:
        code: what the model wrote.
        tests: `test_list`.
        setup: `test_setup_code`.
        reference: the task's own `code`, which tells what the tests take from a solution.
    """
    judged = "\n".join([setup.replace("\r\n", "\n"), *tests])
    return Program(code, judged, tuple(borrowed(judged, reference)))


def borrowed(tests: str, reference: str) -> list[str]:
    """Return the names that tests use and a reference solution defines or imports at its top level, in order."""
    used = {node.id for node in ast.walk(_tree(tests)) if isinstance(node, ast.Name)}
    found: dict[str, None] = {}
    for node in _tree(reference).body:
        for name in _bound(node):
            if name in used:
                found[name] = None
    return list(found)


def entry_point(tests: str, reference: str) -> str:
    """Return the name of the function that tests are about: the reference's first function that they use, or "".

    The last one defined, where they use several: helpers stand before what they help.
    """
    functions = {node.name for node in _tree(reference).body if isinstance(node, ast.FunctionDef)}
    return next((name for name in reversed(borrowed(tests, reference)) if name in functions), "")


def _bound(node: ast.stmt) -> list[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            return [alias.asname or alias.name for alias in aliases]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
    return []


COMPARISON = """
import copy, json

def same(got, expected, atol):
    if isinstance(got, (list, tuple)) and isinstance(expected, (list, tuple)):
        return type(got) is type(expected) and len(got) == len(expected) and all(
            same(one, other, atol) for one, other in zip(got, expected))
    if isinstance(got, (int, float)) and isinstance(expected, (int, float)):
        near = atol or (1e-6 if isinstance(expected, float) else 0)
        return got == expected or (got != got and expected != expected) or (
            near > 0 and abs(got - expected) <= near + 1e-7 * abs(expected))
    if type(expected) not in PLAIN:
        return got is not None
    return got == expected

PLAIN = (type(None), bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)
RESHAPE
used = 0
for arguments in json.loads(INPUTS):
    arguments = reshape(arguments)
    try:
        expected = REFERENCE(*copy.deepcopy(arguments))
    except Exception:
        continue
    used += 1
    assert same(CANDIDATE(*copy.deepcopy(arguments)), expected, ATOL), f"differs at {str(arguments)[:200]}"
assert used, "the reference raises at every input"
"""


SKIPPED = """
import copy, json
RESHAPE
skipped = 0
for arguments in json.loads(INPUTS):
    try:
        REFERENCE(*copy.deepcopy(reshape(arguments)))
    except Exception:
        skipped += 1
raise AssertionError(f"skipped {skipped}")
"""

AS_IT_IS = "reshape = lambda arguments: arguments"


def against_reference(
    code: str, reference: str, entry: str, inputs: Sequence[Sequence[Any]], atol: float = 0.0, reshape: str = AS_IT_IS
) -> Program:
    """Return the program that compares code with a reference solution on inputs.

    Args:
        code: what the model wrote.
        reference: a whole solution.
        entry: name of the function.
        inputs: positional arguments of each call, as JSON has them.
        atol: tolerance of numbers.
        reshape: source that defines `reshape`, from arguments as JSON has them to what the function takes.
    """
    tests = _filled(COMPARISON, inputs, reshape, {"CANDIDATE": entry, "ATOL": repr(atol)})
    return Program(code, tests, (entry,), _given(reference, entry))


def skipped(reference: str, entry: str, inputs: Sequence[Sequence[Any]], reshape: str = AS_IT_IS) -> Program:
    """Return the program that fails with ``skipped N``, N inputs at which the reference itself raises."""
    return Program("", _filled(SKIPPED, inputs, reshape, {}), (), _given(reference, entry))


def _given(reference: str, entry: str) -> str:
    return f"_world = {{'__name__': 'reference'}}\nexec({reference!r}, _world)\n_reference = _world[{entry!r}]\n"


def _filled(template: str, inputs: Sequence[Sequence[Any]], reshape: str, more: dict[str, str]) -> str:
    world = {"INPUTS": repr(json.dumps(list(inputs))), "REFERENCE": "_reference", "RESHAPE": reshape, **more}
    return re.sub("|".join(world), lambda match: world[match[0]], template)
