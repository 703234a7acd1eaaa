"""MT-Bench: 80 questions of two turns, each reply rated from 1 to 10 by a judge.

Zheng et al., arXiv 2306.05685; files, prompts, temperatures and expressions as in FastChat's `llm_judge`, which Dong et
al., arXiv 2310.05492, use (the mean of three runs of the judge: `repeats: 3`). The second turn is asked with the
model's own first reply before it. The judge sees the first turn alone, then both with the word to look at the second;
for mathematics, reasoning and coding with GPT-4's reference. An item of the results is one turn of one question, 160
in all, and the mean goes over them; the turns of a question are one unit in standard errors and tests.

    evaluation: [{mt_bench: {path: FastChat/fastchat/llm_judge/data/mt_bench, judge: gpt-4}}]
    evaluation: [{mt_bench: {path: mt_bench, judge: {openai: gpt-4, repeats: 3}}}]
    evaluation: [{mt_bench: {path: data, judge: {model: ./judge-model, temperature: 0.7, repeats: 3}}}]

How verdicts are read, and what becomes of those that cannot be, is stated in `_verdicts`. What differs from the
published code: replies are written in the model's own chat template (FastChat picks one by the model's name, and a
model it does not know gets a prompt with a built-in example), and each draw hangs on seed, question and position.
"""

from __future__ import annotations

from pathlib import Path

from cuvee.evaluators import _judge, _rated

VERSION = 1
REQUEST_VERSION = 1
JUDGE_VERSION = 1
ANSWERS, METRIC, HIGHER_IS_BETTER, COMPARES = _rated.HEAD
ABILITY = "general"
SIZE = 80
"""Questions of the benchmark."""

TURNS = 2
SOURCE = _judge.SOURCE


class Params(_judge.Params):
    """As `_judge.Params`."""


request, request_params, judge_files = _judge.request, _judge.request_params, _judge.judge_files
grade_params, read = _judge.grade_params, _judge.read
judge_params, questions, combine = _rated.judge_params, _rated.questions, _rated.combine


def with_files(params: Params, folder: Path) -> Params:
    """Return the parameters with whole paths of questions, prompts and references.

    Raises:
        DataError: one is missing, or does not hold what is needed.
    """
    found: Params = _judge.with_files(params, folder, _judge.MT_BENCH, "single")
    return found
