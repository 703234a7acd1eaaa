"""The number of tags of a row: InsTag's complexity.

Lu et al., #InsTag (paper: arXiv 2308.07074): a query with more intentions is more complex, and complex queries teach
more. Their sampling also asks for tags that are new; this selector ranks by complexity alone.

    sources: {general: {path: chats.jsonl, ability: general, taggers: [{instag: {model: builtin:smollm2}}]}}
    select: {by: tag_count, share: 0.1}

A row whose tags could not be read has no score.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from cuvee import protocols
from cuvee.errors import UsageError
from cuvee.protocols import Candidates, Judged, Needs, Pool

VERSION = 1
SEEDED = False


class Params(protocols.Params):
    """Args:
    tagger: which of the taggers of each source, from 0.
    """

    tagger: Annotated[int, Field(ge=0)] = 0


def needs(pool: Pool, params: Params) -> Needs:
    """Return the taggings.

    Raises:
        UsageError: a source has no such tagger.
    """
    found = pool.tags()
    for part, taggings in zip(pool.parts, found, strict=True):
        if len(taggings) <= params.tagger:
            raise UsageError(
                f"counts tags, and source '{part.label}' has {len(taggings)} tagger(s); give it taggers: [...]"
            )
    return Needs({"tags": tuple(taggings[params.tagger] for taggings in found)})


def identity(params: Params) -> dict[str, Any]:
    """Return nothing: the tags are evidence."""
    return {}


def judge(candidates: Candidates, params: Mapping[str, Any]) -> Judged:
    """Return the number of tags of every row."""
    count = np.asarray(candidates.evidence["tags"]["count"], np.float64)
    return Judged(count, [("tags could not be read", np.isnan(count))])
