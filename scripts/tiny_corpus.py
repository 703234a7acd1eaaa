"""The synthetic plain text on which the embedded base models are trained (see `build_tiny.py`).

Every document is synthetic: written by the rules below, from the lexicon of `cuvee.sources._tiny_world`. It is
plain text: no roles, no end-of-turn token and none of the wordings of the instructions, so that fine-tuning has
something to teach. It does hold what a base model would know: sums, categories, opposites, what a snippet prints,
and above all text that can only be predicted by copying.

Kept out of the corpus: word lists, snippets and lines of Python that occur in a fine-tuning row (`Blocklist`).
Not kept out, and so known to the base: the equations themselves (12 + 5 = 17), categories, opposites, and short
phrases of two or three words ("the red hat").
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator

from cuvee.sources import _tiny_world as world

NUMBERS = range(world.LARGEST + 1)
EVERYTHING = (*world.WORDS, *world.NAMES, *world.THINGS, *world.OPPOSITE, *map(str, NUMBERS))


class Blocklist:
    """The word lists and code of all fine-tuning rows, to keep them out of the base corpus."""

    def __init__(self) -> None:
        self.texts: set[str] = set()
        for prompt, _ in world.conversations("general"):
            self.texts.update(re.findall(r"\w+(?:, \w+)+", prompt))
        for prompt, answer in world.conversations("code"):
            self.texts.add(prompt.partition("\n")[2] or answer)

    def __contains__(self, text: str) -> bool:
        return text in self.texts


# --- copying --------------------------------------------------------------------------------------------------


def echo(rng: random.Random) -> str:
    """A random sequence, then the same again, so that only copying predicts the repeats."""
    words = rng.choices(EVERYTHING, k=rng.randint(4, 16))
    line = rng.choice((" ", " ", ", ", " and ")).join(words)
    return "\n".join([f" {line}"] * (3 if len(words) > 8 else 4))


def listing(rng: random.Random) -> str:
    words = rng.sample(world.WORDS, rng.randint(2, 6))
    stranger = rng.choice([word for word in world.WORDS if word not in words])
    known = rng.choice(words)
    notes = [
        f"The first word is {words[0]}.",
        f"The last word is {words[-1]}.",
        f"Backwards it is {', '.join(words[::-1])}.",
        f"Here {known} is in the list.",
        f"Here {stranger} is not in the list.",
        f"Once more: {', '.join(words)}.",
        f"There are {len(words)} words.",
    ]
    rng.shuffle(notes)
    return f"Words: {', '.join(words)}. {' '.join(notes[:5])}"


def pairing(rng: random.Random) -> str:
    one, two, three = rng.sample(EVERYTHING, 3)
    name = rng.choice(world.NAMES)
    forms = (
        f"First {one} and {two}, then {two} and {one}.",
        f"{name} had {one} and {two} and made it {two} and {one}.",
        f"The words {one} {two} {three} turned round are {three} {two} {one}.",
        f"{name} said {one}, so the word of {name} is {one}.",
    )
    return rng.choice(forms)


# --- people and things ----------------------------------------------------------------------------------------


def knowledge(rng: random.Random) -> str:
    kind, other, third = rng.sample(tuple(world.CATEGORIES), 3)
    word, left, right = (rng.choice(world.CATEGORIES[name]) for name in (kind, other, third))
    options = rng.sample((word, left, right), 3)
    quality, name, thing = rng.choice(tuple(world.OPPOSITE)), rng.choice(world.NAMES), rng.choice(world.WORDS)
    article = "an" if kind == "animal" else "a"
    forms = (
        f"Every {word} is {article} {kind}.",
        f"Of {options[0]}, {options[1]} and {options[2]} the {kind} is {word}.",
        f"The opposite of {quality} is {world.OPPOSITE[quality]}.",
        f"If the {thing} is not {quality}, the {thing} is {world.OPPOSITE[quality]}.",
        f"{name} thought the {thing} is {quality}. But no, the {thing} is {world.OPPOSITE[quality]}.",
    )
    return rng.choice(forms)


def ownership(rng: random.Random) -> str:
    people, things = rng.sample(world.NAMES, 3), rng.sample(world.OBJECTS, 3)
    owners = [f"{name} has the {thing}." for name, thing in zip(people, things, strict=True)]
    asked = rng.sample(range(3), 3)
    notes = (f"The {things[place]} is with {people[place]}, so {owners[place]}" for place in asked)
    return " ".join([*owners, *notes])


def courtesy(rng: random.Random) -> str:
    host, guest = rng.sample(world.NAMES, 2)
    color, thing = rng.choice(world.CATEGORIES["color"]), rng.choice(world.OBJECTS)
    animal, place = rng.choice(world.CATEGORIES["animal"]), rng.choice(world.CATEGORIES["place"])
    forms = (
        f'{host} gave a {color} {thing} to {guest}. {guest} said: "Thank you for the {color} {thing}, {host}."',
        f'{host} should take the {animal} to the {place}. So: "{host}, please take the {animal} to the {place}."',
        f"The {animal} of {guest} must go to the {place}: "
        f'"{host}, please bring the {animal} of {guest} to the {place}."',
    )
    return rng.choice(forms)


# --- numbers and code -----------------------------------------------------------------------------------------


def equation(rng: random.Random) -> str:
    sign = rng.choice("+++---*/")
    if sign in "*/":
        left, right = rng.randint(2, 6), rng.randint(2, 10)
        return f"{left} * {right} = {left * right}" if sign == "*" else f"{left * right} / {left} = {right}"
    left, right = rng.randint(0, 40), rng.randint(0, 30)
    total = min(left + right, world.LARGEST)
    return f"{total - right} + {right} = {total}" if sign == "+" else f"{total} - {right} = {total - right}"


def sums(rng: random.Random) -> str:
    return "\n".join(equation(rng) for _ in range(4))


def story(rng: random.Random) -> str:
    """A told sum: the number words of the fine-tuning problems, in another wording and with no question."""
    name, thing, holder = rng.choice(world.NAMES), rng.choice(world.THINGS), rng.choice(world.HOLDERS)
    left, sign, right, _, result = equation(rng).split()
    told = {
        "+": f"{name} had {left} {thing} and then found {right} more",
        "-": f"{name} had {left} {thing} and gave away {right} of them",
        "*": f"{name} put {right} {thing} in each of {left} {holder}",
        "/": f"{name} gave {left} {thing} to {right} friends in equal parts",
    }[sign]
    return f"{told}: {left} {sign} {right} = {result}\nSo {name} wrote {result} down."


def snippet(rng: random.Random) -> str:
    x, y = rng.sample(world.VARIABLES, 2)
    left, sign, right, _, result = equation(rng).split()
    while sign in "*/":
        left, sign, right, _, result = equation(rng).split()
    numbers = rng.sample(NUMBERS, rng.randint(2, 6))
    place, cut = rng.randrange(-1, len(numbers)), rng.randint(1, len(numbers))
    compared = rng.choice("<>")
    truth = int(left) < int(right) if compared == "<" else int(left) > int(right)
    forms = (
        (f"{x} = {left}\n{y} = {right}\nprint({x} {sign} {y})", result),
        (f"{x} = {left}\n{y} = {right}\nprint({x} {compared} {y})", truth),
        (f"{x} = {numbers}\nprint({x}[{place}])", numbers[place]),
        (f"{x} = {numbers}\nprint({x}[:{cut}])", numbers[:cut]),
        (f"{x} = {numbers}\nprint({x}[{cut}:])", numbers[cut:]),
        (f"{x} = {numbers}\nprint(len({x}))", len(numbers)),
    )
    code, printed = rng.choice(forms)
    return "" if code in blocked() else f"{code}\n>>>\n{printed}"


def definition(rng: random.Random) -> str:
    name, (x, y), number = rng.choice(world.WORDS), rng.sample(world.VARIABLES, 2), rng.randint(1, 30)
    word, last = rng.choice(tuple(world.SPOKEN)), rng.choice(("plus", "minus"))
    sign, small, offset = world.SPOKEN[word], rng.randint(2, 9), rng.randint(1, 30)
    forms = (
        (f"{name} of {x}: {x} {word} {number}", f"def {name}({x}): return {x} {sign} {number}"),
        (f"{name} of {x} and {y}: {x} {word} {y}", f"def {name}({x}, {y}): return {x} {sign} {y}"),
        (
            f"{name} of {x}: {x} times {small} {last} {offset}",
            f"def {name}({x}): return {x} * {small} {world.SPOKEN[last]} {offset}",
        ),
        (f"each {x} in {name}: {x} {word} {number}", f"[{x} {sign} {number} for {x} in {name}]"),
    )
    spoken, line = rng.choice(forms)
    return "" if line in blocked() else f"# {spoken}\n{line}"


_BLOCKED: list[Blocklist] = []


def blocked() -> Blocklist:
    if not _BLOCKED:
        _BLOCKED.append(Blocklist())
    return _BLOCKED[0]


# How often a document is made of each writer's passages: copying first, and numbers once copying is learned.
MIXTURES: dict[str, dict[Callable[[random.Random], str], int]] = {
    "copying": {
        echo: 18,
        listing: 24,
        pairing: 6,
        knowledge: 9,
        ownership: 9,
        courtesy: 6,
        sums: 11,
        story: 7,
        snippet: 14,
        definition: 8,
    },
    "numbers": {
        echo: 5,
        listing: 6,
        pairing: 3,
        knowledge: 4,
        ownership: 9,
        courtesy: 3,
        sums: 32,
        story: 14,
        snippet: 26,
        definition: 3,
    },
}
LENGTH = 460  # characters; at least as many tokens as a row of base training holds


def documents(seed: int, mixture: str = "copying") -> Iterator[str]:
    """Synthetic documents without end, each of passages of one kind; the same for the same seed."""
    rng = random.Random(seed)
    writers, weights = zip(*MIXTURES[mixture].items(), strict=True)
    while True:
        write = rng.choices(writers, weights)[0]
        text = ""
        while len(text) < LENGTH:
            passage = write(rng)
            if passage and not _holds_blocked_list(passage):
                text += f"{passage}\n"
        yield text


def _holds_blocked_list(text: str) -> bool:
    return any(words in blocked() for words in re.findall(r"\w+(?:, \w+)+", text))
