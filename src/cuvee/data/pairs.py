"""A context and its continuation to tokens, by the rule of lm-evaluation-harness (api/model.py, `_encode_pair`).

1. White space at the end of the context moves to the front of the continuation.
2. Context and continuation are tokenised as one text, and the context alone; both with the beginning-of-sequence token
   where the tokenizer puts one in front of every text.
3. The continuation's tokens are those of the whole after as many as the context alone has. They follow the context's
   own tokens. So where a token would reach across the boundary, the row is not that of the whole text; the harness
   computes the same.
4. An empty context is the beginning-of-sequence token, or the end-of-sequence one where there is none; a continuation
   that begins with it lends its own.

With a chat template the context is the user's turn, the description the system's, and the template's text up to the
answer comes in place of the context; nothing stands between it and the continuation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cuvee.data import templates
from cuvee.data.chat import Chat, load_tokenizer
from cuvee.data.encoder import Encoder
from cuvee.errors import DataError, ModelError
from cuvee.protocols import Choices, TokenRow
from cuvee.values import Message

BATCH = 512
"""Texts that are tokenised at once."""


class Pairs:
    """A tokenizer, with or without a chat template.

    Args:
        folder: a folder with ``tokenizer.json``.
        template: a chat template as `Chat` takes it; None for plain text.

    Raises:
        ModelError: as `Chat`.
    """

    def __init__(self, folder: Path, template: str | None) -> None:
        self.folder, self.template = folder, template
        self._chat = Chat(folder, template) if template is not None else None
        if self._chat is not None:
            tokenizer, self.bos = self._chat.tokenizer, self._chat.bos
        else:
            tokenizer, self.bos, _ = load_tokenizer(folder)
        self._encoder = Encoder(tokenizer)
        self._token_id = tokenizer.token_to_id

    def contexts(self, description: str, contexts: Sequence[str]) -> list[str]:
        """Return the texts before the continuations.

        Raises:
            ValueError: the template refuses the conversation.
        """
        if self._chat is None:
            return [description + text for text in contexts]
        system = (Message("system", description),) if description else ()
        return [self._chat.prompt_text((*system, Message("user", text))) for text in contexts]

    def of(self, item: Choices) -> list[tuple[str, str]]:
        """Return an item's pairs of context and continuation.

        Raises:
            ValueError: the template refuses the conversation.
        """
        contexts = self.contexts(item.description, item.contexts)
        ends = [("" if self._chat is not None else item.delimiter) + text for text in item.continuations]
        number = len(item.texts)
        every = contexts * (1 if len(contexts) == number else number), ends * (1 if len(ends) == number else number)
        return list(zip(*every, strict=True))

    def rows(self, pairs: Sequence[tuple[str, str]]) -> list[TokenRow]:
        """Return context and continuation of each pair as one row, the continuation as its span.

        Raises:
            DataError: a continuation adds no token to its context.
        """
        moved = [_moved(context, continuation) for context, continuation in pairs]
        whole = self._encoded([context + continuation for context, continuation in moved])
        # Choices of one item share their context: each text is tokenised once.
        texts = list(dict.fromkeys(context for context, _ in moved))
        alone = dict(zip(texts, self._encoded(texts), strict=True))
        found = []
        for (context, continuation), tokens in zip(moved, whole, strict=True):
            head = [*self.bos, *alone[context]] if context else []
            tail = [*self.bos, *tokens][len(head) :] if context else tokens
            if not context:
                head, tail = self._begun(tokens)
            if not tail:
                raise DataError(
                    f"the continuation {continuation[:60]!r} adds no token to its context ...{context[-40:]!r}"
                )
            ids = [*head, *tail]
            found.append(TokenRow(ids, ((len(head), len(ids)),)))
        return found

    def describe(self) -> dict[str, Any]:
        """Return what decides the tokens, as plain data."""
        if self._chat is not None:
            told = self._chat.describe()
            return {name: told[name] for name in ("template", "template_sha256", "tokenizer_sha256", "bos")}
        return {"template": None, "tokenizer_sha256": load_tokenizer(self.folder)[2], "bos": list(self.bos)}

    def _begun(self, tokens: list[int]) -> tuple[list[int], list[int]]:
        special = templates.special_tokens(self.folder)
        names = [special[name] for name in ("bos_token", "eos_token") if name in special]
        first = next((number for name in names if (number := self._token_id(name)) is not None), None)
        if first is None:
            raise ModelError(f"{self.folder}: an empty context needs a bos_token or eos_token, and there is neither")
        return (tokens[:1], tokens[1:]) if tokens[:1] == [first] else ([first], tokens)

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        return [ids for at in range(0, len(texts), BATCH) for ids in self._batch(texts[at : at + BATCH])]

    def _batch(self, texts: Sequence[str]) -> Iterable[list[int]]:
        return (one.ids.tolist() for one in self._encoder.encode(list(texts)))


def _moved(context: str, continuation: str) -> tuple[str, str]:
    """Return a pair with the white space at the end of the context moved to the continuation."""
    bare = context.rstrip()
    return bare, context[len(bare) :] + continuation
