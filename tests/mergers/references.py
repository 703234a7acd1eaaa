"""Every merger again, as slowly and plainly as its formula reads, in float64 on whole tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Model = Mapping[str, Vector]


def linear(models: Sequence[Vector], weights: Sequence[float], normalize: bool = True) -> Vector:
    total = sum(w * m for w, m in zip(weights, models, strict=True))
    return np.asarray(total / sum(weights) if normalize else total)


def slerp(a: Vector, b: Vector, t: float, threshold: float = 0.9995) -> Vector:
    cosine = float(a @ b) / (np.linalg.norm(a) * np.linalg.norm(b))
    if abs(cosine) > threshold:
        return (1 - t) * a + t * b
    angle = np.arccos(cosine)
    return np.asarray((np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle))


def task_arithmetic(base: Vector, models: Sequence[Vector], weights: Sequence[float], scale: float) -> Vector:
    return np.asarray(base + scale * sum(w * (m - base) for w, m in zip(weights, models, strict=True)))


def trim(vector: Vector, density: float) -> Vector:
    """Keep the largest magnitudes; of equal ones the earlier."""
    wanted = max(1, int(density * len(vector)))
    order = sorted(range(len(vector)), key=lambda i: (-abs(vector[i]), i))
    found = np.zeros(len(vector))
    for i in order[:wanted]:
        found[i] = vector[i]
    return found


def agree(vectors: Sequence[Vector], weights: Sequence[float], normalize: bool, zero: float = 1.0) -> Vector:
    """Sum, element by element, what has the elected sign."""
    found = np.zeros(len(vectors[0]))
    for d in range(len(found)):
        entries = [w * v[d] for w, v in zip(weights, vectors, strict=True)]
        total = sum(entries)
        sign = np.sign(total) or zero
        agreeing = [(w, e) for w, e in zip(weights, entries, strict=True) if np.sign(e) == sign]
        divisor = sum(w for w, _ in agreeing) if normalize else 1.0
        found[d] = sum(e for _, e in agreeing) / (divisor or 1.0)
    return found


def ties(
    base: Vector, models: Sequence[Vector], weights: Sequence[float], density: float, scale: float, normalize: bool
) -> Vector:
    vectors = [trim(m - base, density) for m in models]
    return base + scale * agree(vectors, weights, normalize)


def dare(base: Vector, models: Sequence[Vector], keep: Sequence[Vector], density: float, rescale: str) -> list[Vector]:
    """Return task vectors under given masks."""
    found = []
    for model, mask in zip(models, keep, strict=True):
        vector = (model - base) * mask
        l1 = np.abs(model - base).sum() / (np.abs(vector).sum() or 1.0)
        found.append(vector * {"inverse": 1 / density, "l1": l1, "none": 1.0}[rescale])
    return found


def fisher(models: Sequence[Vector], information: Sequence[Vector], weights: Sequence[float], floor: float) -> Vector:
    shares = [w * np.maximum(f, floor) for w, f in zip(weights, information, strict=True)]
    return np.asarray(sum(s * m for s, m in zip(shares, models, strict=True)) / sum(shares))
