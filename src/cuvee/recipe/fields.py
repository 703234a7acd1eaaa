"""Values that people write in several ways: shares, numbers, one or a list."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}


def _fraction(value: Any) -> Any:
    """Accept 1/4, 0.25 and 2; a float is read as the decimal number that was typed."""
    if isinstance(value, bool):
        raise ValueError("must be a share such as 1/4 or 0.25, not true or false")
    if isinstance(value, int | str | Fraction | float):
        try:
            return Fraction(str(value).strip().replace(" ", ""))
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"must be a share such as 1/4 or 0.25, got {value!r}") from None
    raise ValueError(f"must be a share such as 1/4 or 0.25, got {type(value).__name__}")


def _number_of(value: Any) -> Any:
    """Accept 2000000, 2M, 1.5k."""
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMB]?)", value.strip())):
        number = Fraction(match[1]) * _UNITS[match[2]]
        if number.denominator == 1:
            return int(number)
        raise ValueError(f"{value!r} is not a whole number")
    return value


def listed(value: Any) -> Any:
    """Accept one value where a list of them is meant."""
    return (value,) if isinstance(value, int) else value


Share = Annotated[Fraction, BeforeValidator(_fraction)]
"""An exact share: 1/4, 0.25 or 2."""

Number = Annotated[int, BeforeValidator(_number_of)]
"""A whole number that may carry k, M or B."""

Columns = str | tuple[str, ...]
"""A column's name, or several whose texts are joined."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)
