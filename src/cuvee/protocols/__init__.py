"""What the parts promise each other: components by folder, token rows for the engine, results for analyses.

A component is a module. Its file name is its name in a recipe. It holds `VERSION`, a frozen `Params`, and
the verbs of its folder:

    sources      pin(params, folder), examples(params, where), estimate(params, where)
    taggers      tags(example, params), or request(example, params) and parse(text, params)
    selectors    needs(pool, params), identity(params), judge(candidates, params)
    strategies   plan(sources, start, hyper, params)
    mergers      needs_base(params), merge(piece, params); looks(params) before it, where a method must
    evaluators   request(example, params), grade(request, responses, params) or grade_many; or grade(likelihood);
                 or request, questions(asked, others, params, where), read(judgement, params), combine(verdicts);
                 or ask(example, shots, params), grade(scored, params)
    analyses     table(results, params)
"""

from __future__ import annotations

from cuvee.protocols.analyses import (
    NOTHING_SELECTED,
    Analysis,
    Choice,
    Figure,
    Portion,
    Representation,
    Result,
    RunInfo,
    Table,
    TaskVectors,
    TrainingInfo,
    VectorPart,
)
from cuvee.protocols.engine import Likelihood, Progress, Reply, Scored, TokenRow, TokenRows, Tracker
from cuvee.protocols.evaluators import (
    AnswerEvaluator,
    ChoiceEvaluator,
    Choices,
    Conversation,
    EvaluatorParams,
    Grade,
    JudgedEvaluator,
    Judgement,
    LossEvaluator,
    Question,
    Request,
    Response,
    ScoredChoice,
    Verdict,
)
from cuvee.protocols.mergers import Merger, MergerParams
from cuvee.protocols.parameters import Params
from cuvee.protocols.rows import Estimate, ModelTagger, RuleTagger, Source
from cuvee.protocols.selectors import IN_ORDER, Candidates, Judged, Needs, Pool, Selector, takes_some
from cuvee.protocols.strategies import Hyper, Ingredient, Merging, Strategy

__all__ = [
    "IN_ORDER",
    "NOTHING_SELECTED",
    "Analysis",
    "AnswerEvaluator",
    "Candidates",
    "Choice",
    "ChoiceEvaluator",
    "Choices",
    "Conversation",
    "Estimate",
    "EvaluatorParams",
    "Figure",
    "Grade",
    "Hyper",
    "Ingredient",
    "Judged",
    "JudgedEvaluator",
    "Judgement",
    "Likelihood",
    "LossEvaluator",
    "Merger",
    "MergerParams",
    "Merging",
    "ModelTagger",
    "Needs",
    "Params",
    "Pool",
    "Portion",
    "Progress",
    "Question",
    "Reply",
    "Representation",
    "Request",
    "Response",
    "Result",
    "RuleTagger",
    "RunInfo",
    "Scored",
    "ScoredChoice",
    "Selector",
    "Source",
    "Strategy",
    "Table",
    "TaskVectors",
    "TokenRow",
    "TokenRows",
    "Tracker",
    "TrainingInfo",
    "VectorPart",
    "Verdict",
    "takes_some",
]
