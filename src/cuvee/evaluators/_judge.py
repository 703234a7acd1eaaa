"""What evaluators share that ask a model to judge replies: who judges, files of questions and prompts, the questions.

Zheng et al., arXiv 2306.05685; files and rules as in FastChat's `llm_judge`. A folder holds

    question.jsonl               {"question_id": 81, "category": "writing", "turns": ["...", "..."]}
    judge_prompts.jsonl          {"name": "single-v1", "system_prompt": "...", "prompt_template": "... {question} ...",
                                  "output_format": "[[rating]]"}; here or one folder up
    reference_answer/gpt-4.jsonl {"question_id": 101, "choices": [{"turns": ["...", "..."]}]}

packed with gzip or not. Of the prompts those called ``single-v1``, ``single-math-v1`` (with a reference),
``pair-v2``, ``pair-math-v1`` are used, with ``-multi-turn`` for the second turn, whatever their words are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cuvee import canonical, protocols, seeds
from cuvee.data import files
from cuvee.engine.endpoint import Endpoint
from cuvee.errors import DataError, did_you_mean
from cuvee.evaluators import _verdicts
from cuvee.protocols import Conversation, Grade, Judgement, Question, Request, Verdict
from cuvee.recipe import Declared, Share
from cuvee.values import BadRow, Example, Message

OPENAI = {"url": "https://api.openai.com/v1", "key_env": "OPENAI_API_KEY"}
"""Where a judge is asked that is written as nothing but a name."""

TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
"""Temperature of the replies by category (FastChat)."""

OTHERWISE = 0.7
"""Temperature of the replies to questions of any other category (FastChat)."""

WITH_REFERENCE = ("math", "reasoning", "coding")
"""Categories whose replies are judged beside a reference answer (FastChat)."""

NO_REFERENCE, NO_OTHER = "no reference", "no other reply"
"""Why a judge is not asked."""

MOST_TURNS = 2
"""Turns that the judge prompts can show."""

Kind = Literal["single", "pair"]
"""Whether one reply is rated or two are compared."""

PACKED = ("", ".gz", ".zst")

SOURCE: Mapping[str, Any] = {
    "format": "question",
    "columns": {},
    "kept": ("category", "question_id"),
    "questions": True,
}
"""How a file of questions is read."""

MT_BENCH = ("mt_bench_questions.jsonl", "mt_bench/question.jsonl", "question.jsonl", "questions.jsonl")
"""Names of the file of questions in a folder of MT-Bench."""


class Judge(protocols.Params):
    """Who judges, and how often. A name, or ``openai: NAME``, is a model of OpenAI's with the key in OPENAI_API_KEY.

    Args:
        endpoint: a server that answers, {url, model, key_env ...}.
        model: a base model that answers on this machine: a folder, a hub id or a built-in one.
        template: the chat template of `model`; an endpoint applies its own.
        temperature: of the verdicts; null for servers that refuse the parameter.
        max_tokens: longest verdict.
        repeats: verdicts on each reply; of a local model they need a temperature to differ.
        seed: of the draws of a local judge, and sent to a server.
        max_failed: largest share of requests that may stay without an answer; more is an error that keeps the others.
            A result that may be partial is another one than a whole one, and than one that may be so by less.
    """

    endpoint: Endpoint | None = None
    model: str | None = None
    template: str = "tokenizer"
    temperature: Annotated[float, Field(ge=0)] | None = 0.0
    max_tokens: Annotated[int, Field(ge=1)] = 2048
    repeats: Annotated[int, Field(ge=1, le=100)] = 1
    seed: int | None = None
    max_failed: Annotated[Share, Field(ge=0, le=1)] = Fraction(0)

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"openai": value}
        if isinstance(value, Mapping) and "openai" in value and "endpoint" not in value:
            rest = {name: given for name, given in value.items() if name != "openai"}
            return {**rest, "endpoint": {**OPENAI, "model": value["openai"]}}
        return value

    @model_validator(mode="after")
    def _one_judge(self) -> Judge:
        if (self.endpoint is None) == (self.model is None):
            both = "both are given" if self.model else "none is given"
            raise ValueError(f"needs exactly one of endpoint and model, and {both}")
        if self.endpoint and "template" in self.model_fields_set:
            raise ValueError("template belongs to model; an endpoint applies its own: leave template out")
        if self.model and self.temperature is None:
            raise ValueError("temperature: null is for servers; a local judge takes a number")
        if self.model and self.repeats > 1 and not self.temperature:
            raise ValueError(
                f"repeats: {self.repeats} of a local judge without a temperature are all the same; "
                "add temperature: 0.7, or leave repeats out"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """Return what decides the verdicts besides the judge itself, which is an input."""
        found: dict[str, Any] = {
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "repeats": self.repeats,
        }
        if self.model:
            found["template"] = self.template
        if self.max_failed:
            # A partial result is another one: asked for with fewer failures, what is missing is asked.
            found["max_failed"] = str(self.max_failed)
        return found if self.seed is None else {**found, "seed": self.seed}


class Params(protocols.EvaluatorParams):
    """Args:
    path: the folder of questions, judge prompts and references, or the file of questions.
    judge: who judges.
    prompts: file of judge prompts, where it is not in the folder.
    references: file of reference answers, where it is not in the folder.
    with_reference: categories that are judged beside a reference.
    fallback: whether a single bracket may be read as a verdict, as published.
    declared: size of the file of questions when it is not at hand, to plan with.
    max_new_tokens: longest reply.
    temperature: of all replies; by category as published when absent.
    seed: of the replies' draws; with item, turn and position it decides each of them.
    """

    path: str
    judge: Judge
    prompts: str | None = None
    references: str | None = None
    with_reference: tuple[str, ...] = WITH_REFERENCE
    fallback: bool = True
    declared: Declared | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] = 1024
    temperature: Annotated[float, Field(ge=0)] | None = None
    seed: int = 0


class PairParams(Params):
    """Args:
    against: what the replies are compared with: ``base`` (the run's base model), the name of another run, or a file of
        answers, {question_id, choices: [{turns: [...]}]} a row.
    order: ``both`` asks twice with the replies swapped; ``random`` once, in an order drawn for each item.
    """

    against: str = "base"
    order: Literal["both", "random"] = "both"


# --------------------------------------------------------------------------------------------------- files


def with_files(params: Any, folder: Path, questions: Sequence[str], kind: Kind) -> Any:
    """Return the parameters with whole paths of questions, prompts, references and foreign answers.

    Args:
        params: as the recipe has them.
        folder: relative paths are meant from here.
        questions: names the file of questions may have in a folder.
        kind: which judge prompts are needed.

    Raises:
        DataError: a file is missing, or does not hold what is needed; says what was looked for.
    """
    place = (folder / Path(params.path).expanduser()).resolve()
    if not place.exists() and params.declared is not None:
        return params
    asked = _found(place, questions, "questions", "path") if place.is_dir() else place
    if not asked.is_file():
        raise DataError("there is no such file of questions", path=str(asked))
    places = [place, place.parent] if place.is_dir() else [place.parent, place.parent.parent]
    prompts = _named(params.prompts, folder) or _first(places, ("judge_prompts.jsonl",))
    if prompts is None:
        raise DataError(
            f"no judge_prompts.jsonl in {places[0]} or above it; a judge is asked with such prompts (FastChat has them "
            "in fastchat/llm_judge/data): put the file there, or name it with prompts: FILE",
        )
    _check_prompts(prompts, kind)
    _check_categories(params, asked)
    references = _named(params.references, folder) or _first(places, REFERENCES)
    update = {"path": str(asked), "prompts": str(prompts), "references": str(references) if references else None}
    against = (folder / Path(getattr(params, "against", "")).expanduser()).resolve()
    found = params.model_copy(update=update | ({"against": str(against)} if against.is_file() else {}))
    _need_references(found)
    return found


REFERENCES = (
    "reference_answer/gpt-4.jsonl",
    "mt_bench/reference_answer/gpt-4.jsonl",
    "reference_answers.jsonl",
    "mt_bench_reference_answers_gpt4.jsonl",
)
"""Names the file of references may have in a folder."""


def _need_references(params: Params) -> None:
    """Refuse to judge without references where some categories are judged beside one.

    Raises:
        DataError: there is no file of references.
    """
    if params.with_reference and params.references is None and Path(params.path).is_file():
        raise DataError(
            f"replies on {', '.join(params.with_reference)} are judged beside reference answers, and there is no file "
            f"of them ({', '.join(REFERENCES[:2])}); name it with references: FILE, or judge without them: "
            "with_reference: []",
            path=params.path,
        )


def _check_categories(params: Params, asked: Path) -> None:
    """Refuse a misspelt category: its replies would be judged without their references, and nothing would say so.

    Raises:
        DataError: a category of `with_reference` is neither in the file nor among the published ones.
    """
    if "with_reference" in params.model_fields_set and params.with_reference:
        rows = [row for _, row in files.rows(asked) if not isinstance(row, BadRow)]
        known = sorted({str(row[name]) for row in rows for name in ("category", "dataset") if name in row})
        for name in params.with_reference:
            if name not in {*known, *WITH_REFERENCE}:
                raise DataError(f"with_reference: no question has the category '{name}'.{did_you_mean(name, known)}")


def _named(given: str | None, folder: Path) -> Path | None:
    if given is None:
        return None
    path = (folder / Path(given).expanduser()).resolve()
    if not path.is_file():
        raise DataError("there is no such file", path=str(path))
    return path


def _found(folder: Path, names: Sequence[str], what: str, key: str) -> Path:
    path = _first([folder], names)
    if path is None:
        raise DataError(
            f"the folder holds no {what}: looked for {', '.join(names)}, plain or packed; name the file: {key}: FILE",
            path=str(folder),
        )
    return path


def _first(folders: Iterable[Path], names: Sequence[str]) -> Path | None:
    tried = (folder / f"{name}{packed}" for folder in folders for name in names for packed in PACKED)
    return next((path for path in tried if path.is_file()), None)


def _rows(path: str) -> Iterator[Mapping[str, Any]]:
    for line, row in files.rows(path):
        if isinstance(row, BadRow):
            raise DataError(row.reason, path=path, line=line)
        yield row


@dataclass(frozen=True)
class Prompt:
    """One judge prompt: what a judge is told, and the form of its verdict."""

    system: str
    template: str
    format: str


def _stamp(path: str) -> int:
    return Path(path).stat().st_mtime_ns


@lru_cache(maxsize=32)
def _prompts(path: str, stamp: int) -> dict[str, Prompt]:
    found = {}
    for row in _rows(path):
        try:
            found[str(row["name"])] = Prompt(row["system_prompt"], row["prompt_template"], row["output_format"])
        except KeyError as error:
            raise DataError(
                f"a judge prompt has no {error}; is this FastChat's judge_prompts.jsonl?", path=path
            ) from None
        if not all(isinstance(text, str) for text in vars(found[str(row["name"])]).values()):
            raise DataError(f"the prompt '{row['name']}' has something other than text", path=path)
    return found


@lru_cache(maxsize=32)
def _answers(path: str, stamp: int) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for row in _rows(path):
        try:
            name, turns = str(row["question_id"]), row["choices"][0]["turns"]
        except (KeyError, IndexError, TypeError):
            name, turns = "", None
        # A text is a sequence too, of letters.
        if not isinstance(turns, list) or not all(isinstance(text, str) for text in turns):
            raise DataError(
                'no answers as {"question_id": 101, "choices": [{"turns": ["...", "..."]}]} has them', path=path
            )
        if found.setdefault(name, tuple(turns)) != tuple(turns):
            raise DataError(f"question {name} has two answers; give a file with those of one model", path=path)
    return found


def prompts_of(path: str) -> Mapping[str, Prompt]:
    """Return the judge prompts of a file by name."""
    return _prompts(path, _stamp(path))


def answers_of(path: str) -> Mapping[str, tuple[str, ...]]:
    """Return the answers of a file by question id, a text a turn."""
    return _answers(path, _stamp(path))


FIELDS = {
    f"{name}{turn}"
    for name in ("question", "answer", "answer_a", "answer_b", "ref_answer")
    for turn in ("", "_1", "_2")
}
"""What a prompt template may name."""

NAMES = {"single": ("single-v1", "single-math-v1"), "pair": ("pair-v2", "pair-math-v1")}
"""Prompts without and with a reference."""


def prompt_name(kind: Kind, referenced: bool, turn: int) -> str:
    """Return the name of the prompt for a turn (FastChat's names)."""
    return NAMES[kind][referenced] + ("" if turn == 1 else "-multi-turn")


def _check_prompts(path: Path, kind: Kind) -> None:
    """Refuse prompts that cannot be filled or whose verdicts cannot be read; which are needed, the questions say."""
    prompts = prompts_of(str(path))
    if NAMES[kind][0] not in prompts:
        raise DataError(f"no prompt '{NAMES[kind][0]}' in it; there are {', '.join(prompts) or 'none'}", path=str(path))
    for name, prompt in prompts.items():
        if not name.startswith(NAMES[kind]):
            continue
        try:
            unknown = {field for _, field, _, _ in Formatter().parse(prompt.template) if field is not None} - FIELDS
        except ValueError as error:
            raise DataError(f"the prompt '{name}' cannot be filled: {error}", path=str(path)) from None
        if unknown:
            raise DataError(
                f"the prompt '{name}' names {', '.join(sorted(unknown))}; possible: {', '.join(sorted(FIELDS))}",
                path=str(path),
            )
        allowed = _verdicts.FORMATS[:1] if kind == "single" else _verdicts.FORMATS[1:]
        if prompt.format not in allowed:
            raise DataError(
                f"the prompt '{name}' has output_format {prompt.format!r}; possible: {', '.join(allowed)}",
                path=str(path),
            )


# ---------------------------------------------------------------------------------------------- parameters


def request_params(params: Params) -> dict[str, Any]:
    """Return what decides the replies."""
    chosen = TEMPERATURES if params.temperature is None else {}
    otherwise = OTHERWISE if params.temperature is None else params.temperature
    return {
        "max_new_tokens": params.max_new_tokens,
        "temperatures": {**chosen, "otherwise": otherwise},
        "seed": params.seed,
    }


def judge_params(params: Any, kind: Kind) -> dict[str, Any]:
    """Return what decides the verdicts: the prompts, references and foreign answers by their content."""
    found = {**params.judge.identity(), "with_reference": sorted(params.with_reference)}
    for name, path in judge_files(params).items():
        found[name] = _content(name, path, kind)
    if kind == "pair":
        found["order"] = params.order
    return found


def judge_files(params: Any) -> dict[str, str]:
    """Return where prompts, references and foreign answers lie."""
    given = {"prompts": params.prompts, "references": params.references if params.with_reference else None}
    against = getattr(params, "against", None)
    if against and Path(against).is_file():
        given["against"] = against
    return {name: path for name, path in given.items() if path is not None and Path(path).is_file()}


def _content(name: str, path: str, kind: Kind) -> str:
    """Return the hash of what is used of a file: a prompt of another kind, or a space between rows, changes nothing."""
    if name != "prompts":
        return canonical.digest({key: list(turns) for key, turns in answers_of(path).items()})
    used = {key: vars(prompt) for key, prompt in prompts_of(path).items() if key.startswith(NAMES[kind])}
    return canonical.digest(used)


def grade_params(params: Params) -> dict[str, Any]:
    """Return what decides how verdicts are read."""
    return {"fallback": params.fallback}


# ----------------------------------------------------------------------------------------------- questions


def request(example: Example, params: Mapping[str, Any]) -> Request:
    """Return a question with its follow-up turns and the temperature of its category.

    Raises:
        DataError: it has more turns than a judge can be shown.
    """
    turns = [message for message in example.messages if message.role == "user"]
    if len(turns) > MOST_TURNS:
        raise DataError(
            f"the question has {len(turns)} turns; judge prompts show {MOST_TURNS}",
            path=example.path,
            line=example.line,
        )
    category = str(example.extra["category"])
    about = json.dumps({"question_id": str(example.extra["question_id"]), "category": category})
    return Request(
        example.id,
        (*(message for message in example.messages if message.role == "system"), turns[0]),
        about,
        solution="A reply that nobody wrote.",
        followups=tuple(message.content for message in turns[1:]),
        temperature=temperature_of(category, params),
    )


def temperature_of(category: str, params: Mapping[str, Any]) -> float:
    """Return the temperature of replies on a category."""
    temperatures = params["temperatures"]
    return float(temperatures.get(category, temperatures["otherwise"]))


def about(reference: str) -> dict[str, str]:
    """Return what is known of an item: ``question_id`` and ``category``."""
    found: dict[str, str] = json.loads(reference)
    return found


def with_category(reference: str, grade: Grade | None) -> Grade | None:
    """Return a grade with the category of its item as a column."""
    return grade and replace(grade, extra={"category": about(reference)["category"], **grade.extra})


class Asker:
    """Makes the questions of one judging.

    Args:
        kind: ``single`` or ``pair``.
        params: the judge stage's parameters.
        where: where its files lie.

    Raises:
        DataError: a file changed since it was planned.
    """

    def __init__(self, kind: Kind, params: Mapping[str, Any], where: Mapping[str, str]) -> None:
        self.kind, self.params = kind, params
        for name, path in where.items():
            if _content(name, path, kind) != params[name]:
                raise DataError(f"the file of {name} changed since it was planned; plan again", path=path)
        self.prompts = prompts_of(where["prompts"])
        self.references = answers_of(where["references"]) if "references" in where else {}
        self.against = answers_of(where["against"]) if "against" in where else None

    def questions(self, asked: Sequence[Conversation], others: Sequence[Conversation] | None) -> list[Question]:
        """Return a question for each turn, repeated in both orders where replies are compared."""
        by_item = {one.item: one.replies for one in others or ()}
        found: list[Question] = []
        for one in asked:
            other = self._other(one, by_item) if self.kind == "pair" else ()
            for turn in range(1, len(one.turns) + 1):
                found += [self._question(one, turn, order, other) for order in self._orders(one)]
        return found

    def _other(self, one: Conversation, by_item: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
        if self.against is not None:
            return self.against.get(about(one.reference)["question_id"], ())
        return by_item.get(one.item, ())

    def _orders(self, one: Conversation) -> tuple[str, ...]:
        if self.kind == "single":
            return ("",)
        if self.params["order"] == "both":
            return ("AB", "BA")
        drawn = seeds.below(self.params.get("seed") or 0, "judge order", one.item.encode(), Fraction(1, 2))
        return ("AB",) if drawn else ("BA",)

    def _question(self, one: Conversation, turn: int, order: str, other: tuple[str, ...]) -> Question:
        known = about(one.reference)
        referenced = known["category"] in self.params["with_reference"]
        reference = self.references.get(known["question_id"], ()) if referenced else ()
        if referenced and len(reference) < turn:
            return Question(one.item, turn, (), order, NO_REFERENCE)
        if self.kind == "pair" and len(other) < turn:
            return Question(one.item, turn, (), order, NO_OTHER)
        name = prompt_name(self.kind, referenced, turn)
        if name not in self.prompts:
            raise DataError(f"there is no judge prompt '{name}', which category {known['category']} needs")
        prompt = self.prompts[name]
        answers = {"": (one.replies, ()), "AB": (one.replies, other), "BA": (other, one.replies)}[order]
        filled = prompt.template.format(**_fields(one.turns, *answers, reference))
        messages = (Message("system", prompt.system), Message("user", filled))
        return Question(one.item, turn, messages, order, "", prompt.format, POSSIBLE[prompt.format])


POSSIBLE = {
    "[[rating]]": tuple(f"Rating: [[{number}]]" for number in range(1, 11)),
    "[[A]]": tuple(_verdicts.WINNERS),
    "[[rating_a,rating_b]]": ("[[8,5]]", "[[5,8]]", "[[7,7]]"),
    "rating_a rating_b": ("8 5", "5 8", "7 7"),
}
"""Verdicts that a judge could write, for the fake engine."""


def _fields(
    turns: Sequence[str], first: Sequence[str], second: Sequence[str], reference: Sequence[str]
) -> dict[str, str]:
    """Return what prompt templates name, all of it: a template takes what it needs."""
    found = dict.fromkeys(FIELDS, "")
    given = {"question": turns, "answer": first, "answer_a": first, "answer_b": second, "ref_answer": reference}
    for name, texts in given.items():
        for turn, text in enumerate(texts[:MOST_TURNS], 1):
            found[f"{name}_{turn}"] = text
        found[name] = texts[0] if texts else ""
    return found


def read(judgement: Judgement, params: Mapping[str, Any]) -> Verdict:
    """Return a judgement's verdict, read in the form that its prompt asks for."""
    return _verdicts.read(judgement, bool(params["fallback"]))
