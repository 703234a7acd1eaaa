"""The 25 verifiable instructions of IFEval (Zhou et al., arXiv 2311.07911, section 2 and appendix), one check each.

A check takes the reply and the instruction's arguments; names and arguments are those of the released prompts.

    keywords:existence {keywords}                   every one occurs (regular expression, capitals do not count)
    keywords:frequency {keyword, relation, frequency}
    keywords:forbidden_words {forbidden_words}      none occurs as a word
    keywords:letter_frequency {letter, let_relation, let_frequency}
    language:response_language {language}           langdetect's first guess
    length_constraints:number_sentences {num_sentences, relation}, number_words {num_words, relation}
    length_constraints:number_paragraphs {num_paragraphs}        parted by ***
    length_constraints:nth_paragraph_first_word {num_paragraphs, nth_paragraph, first_word}    parted by an empty line
    detectable_content:number_placeholders {num_placeholders}, postscript {postscript_marker}
    detectable_format:number_bullet_lists {num_bullets}, constrained_response, number_highlighted_sections
        {num_highlights}, multiple_sections {section_spliter, num_sections}, json_format, title
    combination:two_responses, repeat_prompt {prompt_to_repeat}
    startend:end_checker {end_phrase}, quotation
    change_case:capital_word_frequency {capital_frequency, capital_relation}, english_capital, english_lowercase
    punctuation:no_comma

Regular expressions and thresholds are those of the released checks. Three differ, so that nothing must be fetched to
run them: sentences end at . ! or ? with closing marks before white space, but for single letters and common
abbreviations (NLTK's trained splitter there); words in capitals are runs of letters, digits, apostrophes and hyphens
(NLTK's tokeniser there); langdetect has a fixed seed, since its guesses are drawn otherwise. A
letter to count that is none of a to z is counted too; the released code replaces it by a random one.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cuvee.errors import UsageError

Arguments = Mapping[str, Any]
Check = Callable[[str, Arguments], bool]

OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
RELATIONS: Mapping[str, Callable[[int, int], bool]] = {
    "less than": lambda found, asked: found < asked,
    "at least": lambda found, asked: found >= asked,
}

_ABBREVIATIONS = frozenset(
    (
        *("Mr", "Mrs", "Ms", "Dr", "Prof", "St", "Sr", "Jr", "vs", "etc", "Inc", "Ltd", "Co", "Corp", "approx", "No"),
        *("Fig", "e.g", "i.e", "U.S", "U.K", "Ph.D", "a.m", "p.m"),
    )
)
_END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s|$)")
_CAPITALS = re.compile(r"[^\W_](?:[^\W_]|['’-](?=[^\W_]))*")


def followed(name: str, text: str, arguments: Arguments) -> bool:
    """Return whether a reply follows an instruction; an empty one follows none.

    Raises:
        KeyError: an argument is missing.
        UsageError: langdetect is needed and not installed.
    """
    return bool(text.strip()) and CHECKS[name](text, arguments)


def loosely(name: str, text: str, arguments: Arguments) -> bool:
    """Return whether a reply follows an instruction as it is, or without first line, last line or asterisks."""
    return any(followed(name, variant, arguments) for variant in variants(text))


def variants(text: str) -> list[str]:
    """Return the eight readings of the loose accuracy (section 3.2 of the paper)."""
    lines = text.split("\n")
    parts = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*parts, *(part.replace("*", "") for part in parts)]


def _relation(found: int, asked: int, relation: str) -> bool:
    return RELATIONS[relation](found, asked)


def sentences(text: str) -> int:
    """Return how many sentences a text has by the rule of the module; what follows the last end mark is one."""
    found, at = 0, 0
    for match in _END.finditer(text):
        word = text[at : match.start()].rpartition(" ")[2].rpartition("\n")[2].lstrip("\"'“‘([")
        short = match.group().startswith(".") and (word in _ABBREVIATIONS or (len(word) == 1 and word.isalpha()))
        if short and match.end() < len(text.rstrip()):
            continue
        found, at = found + 1, match.end()
    return found + bool(text[at:].strip())


def _language(text: str) -> str | None:
    """Return langdetect's guess, None where it finds nothing to go by."""
    try:
        import langdetect
    except ImportError:
        raise UsageError(
            "IFEval tells languages with langdetect, which this Python has not; pip install 'cuvee[ifeval]'"
        ) from None
    langdetect.DetectorFactory.seed = 0
    try:
        return str(langdetect.detect(text))
    except langdetect.LangDetectException:
        return None


def _speaks(text: str, language: str) -> bool:
    # As released: what has no language is no breach.
    return _language(text) in (language, None)


def _bullets(text: str, given: Arguments) -> bool:
    stars = re.findall(r"^\s*\*[^\*].*$", text, flags=re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", text, flags=re.MULTILINE)
    return len(stars) + len(dashes) == int(given["num_bullets"])


def _highlights(text: str, given: Arguments) -> bool:
    single = [one for one in re.findall(r"\*[^\n\*]*\*", text) if one.strip("*").strip()]
    double = [one for one in re.findall(r"\*\*[^\n\*]*\*\*", text) if one[2:-2].strip()]
    return len(single) + len(double) >= int(given["num_highlights"])


def _sections(text: str, given: Arguments) -> bool:
    parts = re.split(r"\s?" + given["section_spliter"] + r"\s?\d+\s?", text)
    return len(parts) - 1 >= int(given["num_sections"])


def _paragraphs(text: str, given: Arguments) -> bool:
    parts = re.split(r"\s?\*\*\*\s?", text)
    inner = parts[1:-1]
    if not all(part.strip() for part in inner):
        return False
    return sum(bool(part.strip()) for part in parts) == int(given["num_paragraphs"])


def _first_word(text: str, given: Arguments) -> bool:
    parts = text.split("\n\n")
    number, place = sum(bool(part.strip()) for part in parts), given["nth_paragraph"]
    if place > number or not parts[place - 1].strip():
        return False
    word = parts[place - 1].split()[0].lstrip("'").lstrip('"')
    first = re.split(r"[.,?!'\"]", word)[0].lower()
    return number == int(given["num_paragraphs"]) and first == str(given["first_word"]).lower()


def _postscript(text: str, given: Arguments) -> bool:
    marker = given["postscript_marker"]
    own = {"P.P.S": r"\s*p\.\s?p\.\s?s.*$", "P.S.": r"\s*p\.\s?s\..*$"}
    pattern = own.get(marker, r"\s*" + marker.lower() + r".*$")
    return re.search(pattern, text.lower(), flags=re.MULTILINE) is not None


def _json(text: str, given: Arguments) -> bool:
    text = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _two(text: str, given: Arguments) -> bool:
    parts = text.split("******")
    if not all(part.strip() for part in parts[1:-1]):
        return False
    said = [part.strip() for part in parts if part.strip()]
    return len(said) == 2 and said[0] != said[1]


def _capitals(text: str, given: Arguments) -> bool:
    number = sum(word.isupper() for word in _CAPITALS.findall(text))
    return _relation(number, given["capital_frequency"], given["capital_relation"])


def _letters(text: str, given: Arguments) -> bool:
    number = Counter(text.lower())[given["letter"].lower()]
    return _relation(number, given["let_frequency"], given["let_relation"])


def _found(pattern: str, text: str) -> int:
    return len(re.findall(pattern, text, flags=re.IGNORECASE))


CHECKS: Mapping[str, Check] = {
    "keywords:existence": lambda text, given: all(_found(word, text) for word in given["keywords"]),
    "keywords:frequency": lambda text, given: _relation(
        _found(given["keyword"], text), given["frequency"], given["relation"]
    ),
    "keywords:forbidden_words": lambda text, given: (
        not any(_found(rf"\b{word}\b", text) for word in given["forbidden_words"])
    ),
    "keywords:letter_frequency": _letters,
    "language:response_language": lambda text, given: _speaks(text, given["language"]),
    "length_constraints:number_sentences": lambda text, given: _relation(
        sentences(text), given["num_sentences"], given["relation"]
    ),
    "length_constraints:number_words": lambda text, given: _relation(
        len(re.findall(r"\w+", text)), given["num_words"], given["relation"]
    ),
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": lambda text, given: (
        len(re.findall(r"\[.*?\]", text)) >= given["num_placeholders"]
    ),
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": lambda text, given: any(option in text for option in OPTIONS),
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": lambda text, given: any(
        one.lstrip("<").rstrip(">").strip() for one in re.findall(r"<<[^\n]+>>", text)
    ),
    "combination:two_responses": _two,
    "combination:repeat_prompt": lambda text, given: (
        text.strip().lower().startswith(given["prompt_to_repeat"].strip().lower())
    ),
    "startend:end_checker": lambda text, given: (
        text.strip().strip('"').lower().endswith(given["end_phrase"].strip().lower())
    ),
    "startend:quotation": lambda text, given: len(text.strip()) > 1 and text.strip()[0] == text.strip()[-1] == '"',
    "change_case:capital_word_frequency": _capitals,
    "change_case:english_capital": lambda text, given: text.isupper() and _speaks(text, "en"),
    "change_case:english_lowercase": lambda text, given: text.islower() and _speaks(text, "en"),
    "punctuation:no_comma": lambda text, given: "," not in text,
}


def unknown(names: Sequence[str]) -> list[str]:
    """Return the instructions that there is no check for."""
    return [name for name in names if name not in CHECKS]
