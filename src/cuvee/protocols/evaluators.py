"""What evaluators promise: requests and grades, choices and their likelihoods, questions to judges and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import Field

from cuvee.values import Example, Message

if TYPE_CHECKING:
    pass
from cuvee.protocols.engine import Likelihood
from cuvee.protocols.parameters import Params


class EvaluatorParams(Params):
    """What every evaluator takes.

    Args:
        name: shown in tables; the component's name when absent.
        ability: measure only this ability; all of the recipe's when absent.
        stages: ``all`` models of a run (the base included) or the ``final`` one.
        items: at most so many items an ability, a nested subset; all when absent.
    """

    name: str | None = None
    ability: str | None = None
    stages: Literal["all", "final"] = "final"
    items: Annotated[int, Field(ge=1)] | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What a model is asked.

    Args:
        item: its id.
        messages: the conversation so far.
        reference: what the grader judges a reply by.
        tools: functions on offer.
        solution: a reply that would be right, where `reference` is none itself; the fake engine gives it.
        followups: further user turns, each asked after the reply to the one before.
        temperature: of this item, in place of the evaluator's; 0 takes the likeliest token.
    """

    item: str
    messages: tuple[Message, ...]
    reference: str
    tools: tuple[Mapping[str, Any], ...] = ()
    solution: str = ""
    followups: tuple[str, ...] = ()
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """What a model answered; finish is ``stop`` or ``length``."""

    text: str
    finish: str


@dataclass(frozen=True, slots=True)
class Grade:
    """One item's score, its weight in the mean, and further columns for the table of items."""

    score: float
    weight: float = 1.0
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Conversation:
    """One item with what a model replied, as a judge sees it.

    Args:
        item: its id.
        reference: what the evaluator stored of it.
        turns: the user's turns.
        replies: the model's reply to each of them.
    """

    item: str
    reference: str
    turns: tuple[str, ...]
    replies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """What a judge is asked about one turn of one item.

    Args:
        item: its id.
        turn: which reply is judged, from 1; all turns up to it are shown.
        messages: the conversation with the judge; none where it cannot be asked.
        order: which reply stands first in a comparison: ``AB`` the judged model's, ``BA`` the other's; else nothing.
        failure: why it cannot be asked.
        format: the form of the verdict that is asked for.
        possible: verdicts that a judge could write; the fake engine takes one.
    """

    item: str
    turn: int
    messages: tuple[Message, ...]
    order: str = ""
    failure: str = ""
    format: str = ""
    possible: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge answered to a question; text is None, and `failure` says why, where there is no answer."""

    item: str
    turn: int
    order: str
    repeat: int
    text: str | None
    finish: str = "stop"
    failure: str = ""
    format: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judgement as it was read: a rating, or the preferred side; None, and `failure` says why, where there is none.

    `fallback` says that only the second, weaker expression found it.
    """

    item: str
    turn: int
    order: str
    repeat: int
    value: float | str | None
    failure: str = ""
    fallback: bool = False


class LossEvaluator(Protocol):
    """Judges by likelihood: `ANSWERS` is ``score``."""

    VERSION: int
    ANSWERS: Literal["score"]
    METRIC: str
    HIGHER_IS_BETTER: bool
    Params: type[EvaluatorParams]

    def grade(self, likelihood: Likelihood) -> Grade: ...


class AnswerEvaluator(Protocol):
    """Judges generated text: `ANSWERS` is ``generate``.

    `request_params` are the parameters that decide what is generated; `REQUEST_VERSION` is theirs, `VERSION`
    the grader's. `grade_params` decide the grading. `request` returns None for rows that are no items. A module
    has `grade`, one item with its replies at a time, or `grade_many(asked, params, workers)`, all of them at once.

    Of a benchmark with a file of its own, `SOURCE` says how its rows are read (``format``, ``columns``, ``kept``),
    `ABILITY` what it measures unless the recipe says otherwise, and `SIZE` how many items it has: a score over
    fewer says so.
    """

    VERSION: int
    REQUEST_VERSION: int
    ANSWERS: Literal["generate"]
    METRIC: str
    HIGHER_IS_BETTER: bool
    Params: type[EvaluatorParams]

    def request_params(self, params: Any) -> Mapping[str, Any]: ...
    def grade_params(self, params: Any) -> Mapping[str, Any]: ...
    def request(self, example: Example, params: Mapping[str, Any]) -> Request | None: ...
    def grade(self, request: Request, responses: Sequence[Response], params: Mapping[str, Any]) -> Grade: ...


@dataclass(frozen=True, slots=True)
class Choices:
    """An item whose choices a model is to weigh, as texts.

    Args:
        item: its id.
        contexts: what each choice follows; one for all of them, or one each.
        continuations: what is weighed; one each, or one after every context.
        texts: what length normalisation counts, one a choice.
        gold: numbers of the right choices, the best first.
        description: stands before the contexts, as the system turn where a chat template is used.
        group: subject or task, where the row names one.
        delimiter: what stands between context and continuation where no chat template is used.
    """

    item: str
    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    texts: tuple[str, ...]
    gold: tuple[int, ...]
    description: str = ""
    group: str = ""
    delimiter: str = " "


@dataclass(frozen=True, slots=True)
class ScoredChoice:
    """One choice of an item with its log-probability (nats); see `Scored`."""

    text: str
    right: bool
    logprob: float
    tokens: int
    greedy: bool
    cut: int


class ChoiceEvaluator(Protocol):
    """Judges by the log-probabilities of given continuations: `ANSWERS` is ``choose``.

    `request_params` decide what is asked, `REQUEST_VERSION` is theirs. `GROUPED` says whether shots are those of the
    item's own group. `SOURCE`, `ABILITY` and `size` as in `AnswerEvaluator`, `size` by the parameters.
    """

    VERSION: int
    REQUEST_VERSION: int
    ANSWERS: Literal["choose"]
    METRIC: str
    HIGHER_IS_BETTER: bool
    Params: type[EvaluatorParams]

    def request_params(self, params: Any) -> Mapping[str, Any]: ...
    def grade_params(self, params: Any) -> Mapping[str, Any]: ...
    def ask(self, example: Example, shots: Sequence[Example], params: Mapping[str, Any]) -> Choices | None: ...
    def grade(self, scored: Sequence[ScoredChoice], params: Mapping[str, Any]) -> Grade: ...


class JudgedEvaluator(Protocol):
    """Judges generated text by asking a model about it: `ANSWERS` is ``judge``.

    Requests are as for `AnswerEvaluator`. Then a judge is asked `questions` (`JUDGE_VERSION`, `judge_params`), and
    grading reads what it answered (`VERSION`, `grade_params`): `read` takes a verdict from a text, `combine` makes one
    grade of all verdicts on one turn of an item, None where no verdict could be read: such an item has no score, and
    is counted.

    `with_files` finds what lies in files when the recipe is planned; `judge_params` pins it by content, `judge_files`
    says where it lies on this machine. A module whose `COMPARES` is true has the replies of a second model judged
    beside the first one's; `params.against` says which.
    """

    VERSION: int
    REQUEST_VERSION: int
    JUDGE_VERSION: int
    ANSWERS: Literal["judge"]
    METRIC: str
    HIGHER_IS_BETTER: bool
    COMPARES: bool
    Params: type[EvaluatorParams]

    def with_files(self, params: Any, folder: Any) -> Any: ...
    def request_params(self, params: Any) -> Mapping[str, Any]: ...
    def judge_params(self, params: Any) -> Mapping[str, Any]: ...
    def judge_files(self, params: Any) -> Mapping[str, Any]: ...
    def grade_params(self, params: Any) -> Mapping[str, Any]: ...
    def request(self, example: Example, params: Mapping[str, Any]) -> Request | None: ...
    def questions(
        self,
        asked: Sequence[Conversation],
        others: Sequence[Conversation] | None,
        params: Mapping[str, Any],
        where: Mapping[str, Any],
    ) -> Sequence[Question]: ...
    def read(self, judgement: Judgement, params: Mapping[str, Any]) -> Verdict: ...
    def combine(self, reference: str, verdicts: Sequence[Verdict]) -> Grade | None: ...
