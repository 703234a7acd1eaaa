"""pass@k: the chance that at least one of k samples passes, estimated without bias from n samples of which c passed.

    pass@k = 1 - C(n - c, k) / C(n, k)

(Chen et al., arXiv 2107.03374, section 2.1.) The fraction is computed in integers and rounded once: the usual product
in floating point gives 0.4999999999999999 for n = 6, c = 3, k = 1, this 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction

from cuvee.errors import UsageError


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Return the estimate for one problem.

    Args:
        samples: n, how many were drawn.
        passed: c, how many of them passed.
        k: how many a user would draw.

    Raises:
        UsageError: not 1 <= k <= n or not 0 <= c <= n.
    """
    if not 1 <= k <= samples:
        raise UsageError(f"pass@{k} of {samples} samples: k must be between 1 and the number of samples")
    if not 0 <= passed <= samples:
        raise UsageError(f"{passed} of {samples} samples passed: impossible")
    return float(1 - Fraction(math.comb(samples - passed, k), math.comb(samples, k)))


def mean_pass_at_k(problems: Iterable[tuple[int, int]], k: int) -> float:
    """Return the mean estimate over problems, each (samples, passed).

    Raises:
        UsageError: no problems, or one with fewer than k samples.
    """
    values = [pass_at_k(samples, passed, k) for samples, passed in problems]
    if not values:
        raise UsageError(f"pass@{k} of no problems")
    return math.fsum(values) / len(values)
