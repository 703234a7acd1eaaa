"""Open tags of what a user wants, by a language model that answers with a JSON list of tags and explanations.

InsTag (Lu et al., arXiv 2308.07074): each query is tagged with as many intentions as a model sees in it. The number
of tags is the query's complexity, the share of all different tags that a subset covers its diversity
(`cuvee.data.tags`). Dong et al. (arXiv 2310.05492, section 4.2) drop the ShareGPT rows whose tags match
``code|math``.

    user: "Sort a list in Python and explain quicksort."
    answer: [{"tag": "python programming", "explanation": "..."}, {"tag": "sorting algorithm", "explanation": "..."}]
    tags: ("python programming", "sorting algorithm"); complexity 2

`wording: instagger` is the request that the released InsTagger (OFA-Sys/InsTagger, with `template: vicuna_v1.1`) was
trained on, to the letter. `wording: instruct` is for any other model that follows instructions; it has the shape of
InsTag's request to ChatGPT (the query between ``[begin]`` and ``[end]``, coarse-grained tags), whose exact words the
paper does not give, and is worded here.

InsTag tags single queries. Of a conversation, `turns: all` (default) makes one query of all user turns, so that a
filter sees code that is asked for late; `turns: first` takes the first, which is InsTag's unit. Queries longer than
`max_chars` are cut at their end and counted.

An answer that cannot be read gives no tags and is counted as unread. A third-party scorer counts such an answer as
one tag, which this does not follow.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cuvee.engine.endpoint import Endpoint
from cuvee.protocols import Params as Base
from cuvee.values import Example, Message

VERSION = 1

INSTAGGER = (
    "Please identify tags of user intentions in the following user query and provide an explanation for each tag. "
    'Please respond in the JSON format {{"tag": str, "explanation": str}}.\nUser query: {query}'
)
"""The released InsTagger's request; its words are what the model was trained on."""

INSTRUCT = (
    "You label requests that people send to an assistant. Name every intention of the query below with a short, "
    "coarse-grained tag in English, such as 'Spelling and Grammar Check' or 'Cosplay', and say in one sentence why it "
    "fits. Do not answer the query itself.\n"
    "[begin]\n{query}\n[end]\n"
    'Answer with nothing but a JSON list: [{{"tag": "...", "explanation": "..."}}, ...]'
)

WORDINGS = {"instagger": INSTAGGER, "instruct": INSTRUCT}


class Params(Base):
    """Who is asked, and about what.

    Args:
        model: a base model that answers on this machine: a folder, a hub id or a built-in one. Very small models do not
            follow the request: of 24 answers of SmolLM2-135M-Instruct 1 could be read, 3 with ``instagger``.
        endpoint: a server that answers, {url, model, key_env ...}; exactly one of `model` and `endpoint`.
        wording: ``instagger`` for the released InsTagger, ``instruct`` for other models.
        turns: ``all`` user turns as one query, or the ``first``.
        template: the chat template of `model`; an endpoint applies its own.
        max_new_tokens: longest answer; an answer that is cut cannot be read.
        max_chars: longest query; 6,000 characters of English are about 1,500 tokens.
    """

    model: str | None = None
    endpoint: Endpoint | None = None
    wording: Literal["instagger", "instruct"] = "instruct"
    turns: Literal["all", "first"] = "all"
    template: str = "tokenizer"
    max_new_tokens: Annotated[int, Field(ge=1)] = 512
    max_chars: Annotated[int, Field(ge=1)] = 6000

    @model_validator(mode="after")
    def _one_answerer(self) -> Params:
        if (self.model is None) == (self.endpoint is None):
            both = "both are given" if self.model else "none is given"
            raise ValueError(
                f"needs exactly one of model and endpoint, and {both}; "
                "model: FOLDER or hub id answers on this machine, endpoint: {url: ..., model: ...} asks a server"
            )
        if self.endpoint and "template" in self.model_fields_set:
            raise ValueError("template belongs to model; an endpoint applies its own: leave template out")
        return self


def identity(params: Params) -> dict[str, Any]:
    """Return the parameters that can change the tags.

    A local model is an input of the stage and pinned by its content, so its name is left out. An endpoint is its url
    and model name: the same name on another server may be other weights. How it is asked (key, concurrency, timeout,
    retries) is left out.
    """
    found: dict[str, Any] = {
        name: getattr(params, name) for name in ("wording", "turns", "max_new_tokens", "max_chars")
    }
    if params.endpoint:
        return {**found, "endpoint": params.endpoint.identity()}
    return {**found, "template": params.template}


def generation(params: Params) -> dict[str, Any]:
    """Return how answers are generated: greedily."""
    return {"max_new_tokens": params.max_new_tokens, "temperature": 0.0}


def request(example: Example, params: Params) -> tuple[Message, ...]:
    """Return the conversation to be answered: one user turn."""
    query = _query(example, params)[: params.max_chars]
    return (Message("user", WORDINGS[params.wording].format(query=query)),)


def is_cut(example: Example, params: Params) -> bool:
    """Return whether the query is longer than `max_chars`; the stage counts such rows."""
    return len(_query(example, params)) > params.max_chars


def parse(text: str, params: Params) -> tuple[str, ...] | None:
    """Return the different tags of an answer in order, or None where it cannot be read.

    Fences and text around the JSON are passed over. A list of objects with ``tag``, a list of texts, one object, and
    objects one after another are read; a list that is cut off, or holds anything else, is not.
    """
    start = _START.search(text)
    if start is None:
        return None
    try:
        items = _items(text, start.start())
    except ValueError:
        return None
    tags = [_tag(item) for item in items]
    if None in tags:
        return None
    return tuple(dict.fromkeys(tag for tag in tags if tag))


_START = re.compile(r"""\[\s*[\]{"]|\{\s*["}]""")
_BETWEEN = re.compile(r"[\s,]*(?=\{)")
_DECODER = json.JSONDecoder(strict=False)


def _items(text: str, at: int) -> list[Any]:
    value, end = _DECODER.raw_decode(text, at)
    if isinstance(value, list):
        return value
    items = [value]
    while gap := _BETWEEN.match(text, end):
        value, end = _DECODER.raw_decode(text, gap.end())
        items.append(value)
    return items


def _tag(item: Any) -> str | None:
    value = item.get("tag") if isinstance(item, Mapping) else item
    return value.strip() if isinstance(value, str) else None


def _query(example: Example, params: Params) -> str:
    turns = [message.content for message in example.messages if message.role == "user"]
    return "\n\n".join(turns if params.turns == "all" else turns[:1])
