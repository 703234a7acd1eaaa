"""A synthetic world of three abilities, small enough for a one-million-parameter model.

Every row is synthetic: made by the rules below, from a lexicon of short words, and from no outside text.

- `math`: word problems of one or two steps; the answer shows the working, its last line is `#### n`.
- `code`: small Python tasks; the answer is what a snippet prints, or one line of Python.
- `general`: instructions about words, people and things with exactly one right answer text.

A row depends only on (`SEED`, ability, index): the index picks a kind of task, and a seeded permutation of
that kind's parameter space picks the parameters. A permutation never repeats, so neither does a prompt.

    >>> next(conversations("general"))[1]
    'The first word is bee.'

`verify` recomputes the answer from the text of the prompt alone and shares no code with the generators.
"""

from __future__ import annotations

import ast
import hashlib
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

SEED = 17
ROWS = 6_000
ABILITIES = ("math", "code", "general")
LARGEST = 60  # no number in any prompt, working or answer is larger

NAMES = ("Anna", "Tom", "Ben", "Mia", "Leo", "Eva", "Max", "Zoe", "Sam", "Kim", "Ida", "Jon")
THINGS = ("pens", "cups", "hats", "keys", "coins", "books", "cards", "eggs", "nuts", "maps", "toys", "pins")
HOLDERS = ("bags", "boxes", "bowls", "rows")
# Categories have one size, so that the parameter space of a task is a plain product.
CATEGORIES = {
    "animal": ("cat", "dog", "fox", "hen", "pig", "cow", "bee", "owl", "goat"),
    "fruit": ("fig", "pear", "plum", "lime", "kiwi", "lemon", "apple", "grape", "melon"),
    "color": ("red", "blue", "green", "pink", "gray", "black", "white", "gold", "brown"),
    "tool": ("saw", "axe", "nail", "rope", "drill", "fork", "knife", "lamp", "pump"),
    "garment": ("hat", "cap", "coat", "sock", "shoe", "shirt", "scarf", "glove", "belt"),
    "place": ("lake", "park", "barn", "farm", "port", "town", "hill", "cave", "shop"),
}
WORDS = tuple(word for words in CATEGORIES.values() for word in words)
OBJECTS = CATEGORIES["fruit"] + CATEGORIES["tool"] + CATEGORIES["garment"]
OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("old", "new"), ("wet", "dry"), ("fast", "slow"), ("hard", "soft"),
    ("high", "low"), ("full", "empty"), ("dark", "light"), ("long", "short"), ("loud", "quiet"), ("rich", "poor"),
)  # fmt: skip
OPPOSITE = dict(OPPOSITES) | {right: left for left, right in OPPOSITES}
VARIABLES = ("a", "b", "n", "x", "y", "z")
SPOKEN = {"plus": "+", "minus": "-", "times": "*"}

Row = tuple[str, str]
Option = TypeVar("Option")


class Draw:
    """Reads one number below a parameter space's size as a sequence of choices (mixed-radix digits).

    `space` is the product of the radices taken so far: after a task function ran on any number, it is the size
    of that task's space, because the radices never depend on earlier choices.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.space = 1

    def below(self, radix: int) -> int:
        self.space *= radix
        self.number, digit = divmod(self.number, radix)
        return digit

    def between(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""
        return low + self.below(high - low + 1)

    def pick(self, options: Sequence[Option]) -> Option:
        return options[self.below(len(options))]

    def several(self, options: Sequence[Option], count: int) -> list[Option]:
        """`count` different options, in a drawn order."""
        left = list(options)
        return [left.pop(self.below(len(left))) for _ in range(count)]


# --- math -----------------------------------------------------------------------------------------------------


def _worked(*steps: tuple[int, str, int, int]) -> str:
    lines = [f"{left} {sign} {right} = {result}" for left, sign, right, result in steps]
    return "\n".join([*lines, f"#### {steps[-1][3]}"])


def _gain(draw: Draw) -> Row:
    name, thing, a, b = draw.pick(NAMES), draw.pick(THINGS), draw.between(2, 30), draw.between(2, 30)
    verb = draw.pick(("finds", "buys"))
    prompt = f"{name} has {a} {thing}. {name} {verb} {b} more. How many {thing} does {name} have now?"
    return prompt, _worked((a, "+", b, a + b))


def _lose(draw: Draw) -> Row:
    name, thing, rest, b = draw.pick(NAMES), draw.pick(THINGS), draw.between(1, 30), draw.between(2, 30)
    a, verb = rest + b, draw.pick(("loses", "sells"))
    prompt = f"{name} has {a} {thing}. {name} {verb} {b} of them. How many {thing} does {name} have left?"
    return prompt, _worked((a, "-", b, rest))


def _groups(draw: Draw) -> Row:
    thing, holder, a, b = draw.pick(THINGS), draw.pick(HOLDERS), draw.between(2, 6), draw.between(2, 10)
    name = draw.pick(NAMES)
    prompt = f"{name} fills {a} {holder} with {b} {thing} each. How many {thing} does {name} use?"
    return prompt, _worked((a, "*", b, a * b))


def _share(draw: Draw) -> Row:
    name, thing, a, b = draw.pick(NAMES), draw.pick(THINGS), draw.between(2, 6), draw.between(2, 10)
    group = draw.pick(("friends", "children", "guests"))
    prompt = f"{name} shares {a * b} {thing} among {a} {group}. How many {thing} does each one get?"
    return prompt, _worked((a * b, "/", a, b))


def _gain_gain(draw: Draw) -> Row:
    name, thing = draw.pick(NAMES), draw.pick(THINGS)
    a, b, c = draw.between(2, 20), draw.between(2, 20), draw.between(2, 20)
    prompt = f"{name} has {a} {thing}. {name} finds {b} more and buys {c} more. How many {thing} does {name} have now?"
    return prompt, _worked((a, "+", b, a + b), (a + b, "+", c, a + b + c))


def _lose_gain(draw: Draw) -> Row:
    name, thing = draw.pick(NAMES), draw.pick(THINGS)
    rest, b, c = draw.between(1, 20), draw.between(2, 20), draw.between(2, 20)
    a = rest + b
    prompt = (
        f"{name} has {a} {thing}. {name} loses {b} of them and buys {c} more. How many {thing} does {name} have now?"
    )
    return prompt, _worked((a, "-", b, rest), (rest, "+", c, rest + c))


def _groups_gain(draw: Draw) -> Row:
    name, thing, holder = draw.pick(NAMES), draw.pick(THINGS), draw.pick(HOLDERS)
    a, b, c = draw.between(2, 5), draw.between(2, 8), draw.between(2, 20)
    prompt = f"{name} has {a} {holder} with {b} {thing} each and buys {c} more. How many {thing} does {name} have now?"
    return prompt, _worked((a, "*", b, a * b), (a * b, "+", c, a * b + c))


def _groups_lose(draw: Draw) -> Row:
    name, thing, holder = draw.pick(NAMES), draw.pick(THINGS), draw.pick(HOLDERS)
    a, b, c = draw.between(2, 6), draw.between(4, 10), draw.between(2, 7)
    prompt = f"{name} has {a} {holder} with {b} {thing} each and loses {c}. How many {thing} does {name} have left?"
    return prompt, _worked((a, "*", b, a * b), (a * b, "-", c, a * b - c))


# --- code -----------------------------------------------------------------------------------------------------


def _prints(snippet: str) -> str:
    return f"What does this print?\n{snippet}"


def _print_sum(draw: Draw) -> Row:
    (x, y), a, b = draw.several(VARIABLES, 2), draw.between(1, 30), draw.between(1, 30)
    return _prints(f"{x} = {a}\n{y} = {b}\nprint({x} + {y})"), str(a + b)


def _print_difference(draw: Draw) -> Row:
    (x, y), rest, b = draw.several(VARIABLES, 2), draw.between(0, 30), draw.between(1, 30)
    return _prints(f"{x} = {rest + b}\n{y} = {b}\nprint({x} - {y})"), str(rest)


def _print_comparison(draw: Draw) -> Row:
    (x, y), a, b = draw.several(VARIABLES, 2), draw.between(1, 30), draw.between(1, 30)
    sign = draw.pick(("<", ">"))
    return _prints(f"{x} = {a}\n{y} = {b}\nprint({x} {sign} {y})"), str(a < b if sign == "<" else a > b)


def _print_item(draw: Draw) -> Row:
    x, numbers, place = draw.pick(VARIABLES), draw.several(range(LARGEST), 4), draw.pick((0, 1, 2, 3, -1))
    return _prints(f"{x} = {numbers}\nprint({x}[{place}])"), str(numbers[place])


def _print_slice(draw: Draw) -> Row:
    x, numbers, cut = draw.pick(VARIABLES), draw.several(range(LARGEST), 4), draw.pick((1, 2, 3))
    head = draw.pick((True, False))
    part = numbers[:cut] if head else numbers[cut:]
    return _prints(f"{x} = {numbers}\nprint({x}[{f':{cut}' if head else f'{cut}:'}])"), str(part)


def _print_length(draw: Draw, length: int) -> Row:
    x, numbers = draw.pick(VARIABLES), draw.several(range(LARGEST), length)
    return _prints(f"{x} = {numbers}\nprint(len({x}))"), str(length)


def _function_of_one(draw: Draw) -> Row:
    name, x, word = draw.pick(WORDS), draw.pick(VARIABLES), draw.pick(tuple(SPOKEN))
    number = draw.between(2, 30)
    prompt = f"Write a function {name} of {x} that returns {x} {word} {number}."
    return prompt, f"def {name}({x}): return {x} {SPOKEN[word]} {number}"


def _function_of_two(draw: Draw) -> Row:
    name, (x, y), word = draw.pick(WORDS), draw.several(VARIABLES, 2), draw.pick(tuple(SPOKEN))
    prompt = f"Write a function {name} of {x} and {y} that returns {x} {word} {y}."
    return prompt, f"def {name}({x}, {y}): return {x} {SPOKEN[word]} {y}"


def _function_of_two_steps(draw: Draw) -> Row:
    name, x, number = draw.pick(WORDS), draw.pick(VARIABLES), draw.between(2, 9)
    word, last = draw.pick(("plus", "minus")), draw.between(1, 30)
    prompt = f"Write a function {name} of {x} that returns {x} times {number} {word} {last}."
    return prompt, f"def {name}({x}): return {x} * {number} {SPOKEN[word]} {last}"


def _comprehension(draw: Draw) -> Row:
    name, x, word, number = draw.pick(WORDS), draw.pick(VARIABLES), draw.pick(tuple(SPOKEN)), draw.between(2, 30)
    prompt = f"Write a list of {x} {word} {number} for each {x} in {name}."
    return prompt, f"[{x} {SPOKEN[word]} {number} for {x} in {name}]"


# --- general --------------------------------------------------------------------------------------------------


def _first(draw: Draw, length: int) -> Row:
    words = draw.several(WORDS, length)
    return f"Which word comes first: {', '.join(words)}?", f"The first word is {words[0]}."


def _last(draw: Draw, length: int) -> Row:
    words = draw.several(WORDS, length)
    return f"Which word comes last: {', '.join(words)}?", f"The last word is {words[-1]}."


def _swap(draw: Draw) -> Row:
    (one, two), name = draw.several(WORDS, 2), draw.pick(NAMES)
    return f"{name} wrote {one} and {two}. Swap the two words.", f"{name} wrote {two} and {one}."


def _backwards(draw: Draw) -> Row:
    words = draw.several(WORDS, 3)
    return f"Read this list backwards: {', '.join(words)}.", f"Backwards it is {', '.join(words[::-1])}."


def _opposite(draw: Draw) -> Row:
    name, thing, quality = draw.pick(NAMES), draw.pick(WORDS), draw.pick(tuple(OPPOSITE))
    prompt = f"{name} says the {thing} is {quality}. Say the opposite."
    return prompt, f"No, {name}, the {thing} is {OPPOSITE[quality]}."


def _category(draw: Draw) -> Row:
    kinds, place = draw.several(tuple(CATEGORIES), 3), draw.below(3)
    words = [draw.pick(CATEGORIES[kind]) for kind in kinds]
    article = "an" if kinds[place] == "animal" else "a"
    prompt = f"Which one is {article} {kinds[place]}: {', '.join(words)}?"
    return prompt, f"The {kinds[place]} is {words[place]}."


def _member(draw: Draw) -> Row:
    words, place = draw.several(WORDS, 4), draw.below(4)
    return f"Is {words[place]} in the list {', '.join(words)}?", f"Yes, {words[place]} is in the list."


def _stranger(draw: Draw) -> Row:
    asked, *words = draw.several(WORDS, 5)
    return f"Is {asked} in the list {', '.join(words)}?", f"No, {asked} is not in the list."


def _thank(draw: Draw) -> Row:
    name, color, thing = draw.pick(NAMES), draw.pick(CATEGORIES["color"]), draw.pick(OBJECTS)
    return f"Thank {name} for the {color} {thing}.", f"Thank you for the {color} {thing}, {name}."


def _invite(draw: Draw) -> Row:
    (host, guest), place = draw.several(NAMES, 2), draw.pick(CATEGORIES["place"])
    animal = draw.pick(CATEGORIES["animal"])
    prompt = f"Ask {host} to bring the {animal} of {guest} to the {place}."
    return prompt, f"{host}, please bring the {animal} of {guest} to the {place}."


def _owner(draw: Draw) -> Row:
    people, things, place = draw.several(NAMES, 2), draw.several(OBJECTS, 2), draw.below(2)
    stories = [f"{name} has the {thing}." for name, thing in zip(people, things, strict=True)]
    return f"{' '.join(stories)} Who has the {things[place]}?", stories[place]


TASKS: dict[str, tuple[Callable[[Draw], Row], ...]] = {
    "math": (_gain, _lose, _groups, _share, _gain_gain, _lose_gain, _groups_gain, _groups_lose),
    "code": (
        _print_sum, _function_of_one, _print_item, _function_of_two, _print_slice, _comprehension,
        _print_difference, _function_of_two_steps, _print_comparison, partial(_print_length, length=3),
        partial(_print_length, length=5), partial(_print_length, length=4),
    ),
    "general": (
        partial(_first, length=3), partial(_last, length=4), _swap, _opposite, _category, _member, _thank,
        _invite, _owner, _stranger, partial(_first, length=5), _backwards,
    ),
}  # fmt: skip


# --- rows -----------------------------------------------------------------------------------------------------


def _mixed(key: str, value: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{key}/{value}".encode(), digest_size=8).digest(), "big")


def _permuted(index: int, space: int, key: str) -> int:
    """The place of `index` in a seeded permutation of `range(space)` (Feistel rounds, walked back into range)."""
    bits = max(1, ((space - 1).bit_length() + 1) // 2)
    low = (1 << bits) - 1
    while True:
        left, right = index >> bits, index & low
        for turn in range(4):
            left, right = right, left ^ (_mixed(f"{key}/{turn}", right) & low)
        index = left << bits | right
        if index < space:
            return index


def _space(task: Callable[[Draw], Row]) -> int:
    draw = Draw(0)
    task(draw)
    return draw.space


def conversations(ability: str) -> Iterator[Row]:
    """The `ROWS` rows of one ability as (user text, assistant text), synthetic, always the same, no prompt twice."""
    if ability not in TASKS:
        raise ValueError(f"no ability {ability!r} in the tiny world: it has {', '.join(ABILITIES)}")
    tasks = TASKS[ability]
    spaces = [_space(task) for task in tasks]
    for index in range(ROWS):
        turn, kind = divmod(index, len(tasks))
        yield tasks[kind](Draw(_permuted(turn, spaces[kind], f"{SEED}/{ability}/{kind}")))


# --- checking -------------------------------------------------------------------------------------------------


def verify(ability: str, prompt: str, answer: str) -> bool:
    """Whether `answer` is right, recomputed from the words of `prompt` alone.

    Math compares the number of the last `#### n` line; code and general compare the whole text without outer
    white space. A prompt that is not of this world is never answered right.
    """
    if ability == "math":
        found = re.search(r"#### (-?\d+)\s*$", answer)
        return found is not None and solve_math(prompt) == int(found[1])
    if ability not in ABILITIES:
        raise ValueError(f"no ability {ability!r} in the tiny world: it has {', '.join(ABILITIES)}")
    expected = solve_code(prompt) if ability == "code" else solve_general(prompt)
    return expected is not None and answer.strip() == expected


def solve_math(prompt: str) -> int | None:
    """Walks over the quantities of the story in reading order; None for a text without any."""
    total: int | None = None
    pattern = (
        r"(?P<groups>\d+) (?:bags|boxes|bowls|rows) with (?P<size>\d+)|shares (?P<pool>\d+) \w+ among (?P<heads>\d+)"
        r"|(?:finds|buys) (?P<more>\d+)|(?:loses|sells) (?P<less>\d+)|has (?P<start>\d+) (?!bags|boxes|bowls|rows)"
    )
    for found in re.finditer(pattern, prompt):
        part = {name: int(digits) for name, digits in found.groupdict().items() if digits is not None}
        if "groups" in part:
            total = part["groups"] * part["size"]
        elif "pool" in part:
            total = part["pool"] // part["heads"]
        else:
            total = part.get("start", (total or 0) + part.get("more", 0) - part.get("less", 0))
    return total


def solve_code(prompt: str) -> str | None:
    """What the snippet prints, by interpreting its syntax tree, or the line of Python that was asked for."""
    head, _, snippet = prompt.partition("\n")
    if head == "What does this print?":
        try:
            return _printed(snippet)
        except (SyntaxError, ValueError, LookupError):
            return None  # not a snippet of this world
    for word, sign in SPOKEN.items():
        prompt = prompt.replace(f" {word} ", f" {sign} ")
    if found := re.fullmatch(r"Write a function (\w+) of (\w)(?: and (\w))? that returns (.+)\.", prompt):
        name, one, two, body = found.groups()
        return f"def {name}({one}, {two}): return {body}" if two else f"def {name}({one}): return {body}"
    if found := re.fullmatch(r"Write a list of (.+) for each (\w) in (\w+)\.", prompt):
        return f"[{found[1]} for {found[2]} in {found[3]}]"
    return None


def _printed(snippet: str) -> str | None:
    names: dict[str, object] = {}
    for line in ast.parse(snippet).body:
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
            names[line.targets[0].id] = ast.literal_eval(line.value)
        elif isinstance(line, ast.Expr) and isinstance(line.value, ast.Call):
            return str(_evaluated(line.value.args[0], names))
    return None


_OPERATORS: dict[type[ast.AST], Callable[[int, int], object]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Lt: operator.lt,
    ast.Gt: operator.gt,
}


def _evaluated(node: ast.expr, names: dict[str, object]) -> object:
    """The value of an expression of the snippets' small grammar; nothing is executed."""
    match node:
        case ast.Name(id=name):
            return names[name]
        case ast.BinOp(left=ast.Name(id=left), op=sign, right=ast.Name(id=right)):
            return _OPERATORS[type(sign)](_integer(names[left]), _integer(names[right]))
        case ast.Compare(left=ast.Name(id=left), ops=[sign], comparators=[ast.Name(id=right)]):
            return _OPERATORS[type(sign)](_integer(names[left]), _integer(names[right]))
        case ast.Call(func=ast.Name(id="len"), args=[ast.Name(id=name)]):
            return len(_listed(names[name]))
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Slice(lower=low, upper=high)):
            return _listed(names[name])[slice(_literal(low), _literal(high))]
        case ast.Subscript(value=ast.Name(id=name), slice=place):
            return _listed(names[name])[_integer(ast.literal_eval(place))]
    raise ValueError(f"not an expression of the tiny world: {ast.unparse(node)}")


def _integer(value: object) -> int:
    assert isinstance(value, int)
    return value


def _listed(value: object) -> list[int]:
    assert isinstance(value, list)
    return value


def _literal(node: ast.expr | None) -> int | None:
    return None if node is None else _integer(ast.literal_eval(node))


_GENERAL: tuple[tuple[str, Callable[..., str]], ...] = (
    (r"Which word comes first: (\w+), .+\?", lambda word: f"The first word is {word}."),
    (r"Which word comes last: .+, (\w+)\?", lambda word: f"The last word is {word}."),
    (r"(\w+) wrote (\w+) and (\w+)\. Swap .+", lambda name, one, two: f"{name} wrote {two} and {one}."),
    (r"Read this list backwards: (\w+), (\w+), (\w+)\.", lambda a, b, c: f"Backwards it is {c}, {b}, {a}."),
    (
        r"(\w+) says the (\w+) is (\w+)\. Say the opposite\.",
        lambda name, thing, quality: f"No, {name}, the {thing} is {OPPOSITE[quality]}.",
    ),
    (
        r"Which one is an? (\w+): (.+)\?",
        lambda kind, words: f"The {kind} is {next(w for w in words.split(', ') if w in CATEGORIES[kind])}.",
    ),
    (
        r"Is (\w+) in the list (.+)\?",
        lambda w, words: f"Yes, {w} is in the list." if w in words.split(", ") else f"No, {w} is not in the list.",
    ),
    (r"Thank (\w+) for (.+)\.", lambda name, gift: f"Thank you for {gift}, {name}."),
    (r"Ask (\w+) to (.+)\.", lambda name, favour: f"{name}, please {favour}."),
    (
        r"(.+\.) Who has the (\w+)\?",
        lambda story, thing: next(told for told in re.findall(r"\w+ has the \w+\.", story) if thing in told),
    ),
)


def solve_general(prompt: str) -> str | None:
    """The one right answer, by the wording of the instruction; None for a text that is none of them."""
    for pattern, answer in _GENERAL:
        if found := re.fullmatch(pattern, prompt):
            return answer(*found.groups())
    return None
