"""Settings of trainings: optimisation, adapters, regularisers, replay, marks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from cuvee.recipe.fields import Number, Section, Share

WSD_DECAY = 0.1
"""Share of the steps in which the rate falls where the recipe does not say; as in MiniCPM, arXiv 2404.06395."""


class Lora(Section):
    """Settings of ``method: lora``: a linear layer W becomes W + scale * B A, and only A and B are trained.

    Source: Hu et al., LoRA, arXiv 2106.09685; `rslora`: Kalajdzievski, arXiv 2312.03732.

    Args:
        rank: rows of A and columns of B.
        alpha: scale is alpha / rank, with `rslora` alpha / sqrt(rank).
        dropout: of what goes into A, in training.
        targets: ``auto`` (the layers PEFT names for the architecture, often those of queries and values),
            ``all-linear`` (all but the output layer), or names of linear layers.
        rslora: the scale above.
        between: what a later training of a run starts from: the earlier adapter folded and a new adapter (``fold``),
            or the first weights and the earlier adapter (``continue``).
    """

    rank: Annotated[int, Field(ge=1, strict=True)] = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: Literal["auto", "all-linear"] | tuple[str, ...] = "auto"
    rslora: bool = False
    between: Literal["fold", "continue"] = "fold"

    def canonical(self) -> dict[str, Any]:
        """Return all settings; the order of target names does not count."""
        targets = self.targets if isinstance(self.targets, str) else sorted(set(self.targets))
        return {**dict(self), "targets": targets}

    @model_validator(mode="after")
    def _names_something(self) -> Lora:
        if not self.targets:
            raise ValueError("targets is empty; name layers, or say auto or all-linear")
        return self


class L2SP(Section):
    """Squared distance to the starting weights: (weight / 2) ||theta - theta_0||^2. Li et al., arXiv 1802.01483."""

    weight: Annotated[float, Field(gt=0)]


class EWC(Section):
    """Elastic weight consolidation: (weight / 2) sum_i F_i (theta_i - theta_0,i)^2.

    Source: Kirkpatrick et al., arXiv 1612.00796.

    Args:
        weight: lambda.
        source: rows that the Fisher information F of the starting model is taken on.
        samples: at most so many of them.
        labels: ``sampled`` from the model, or the rows' own (``data``, the empirical Fisher).
    """

    weight: Annotated[float, Field(gt=0)]
    source: str
    samples: Annotated[Number, Field(ge=1)] = 256
    labels: Literal["sampled", "data"] = "sampled"


class KL(Section):
    """KL to the starting model at the supervised positions, times weight, mean over tokens.

    Args:
        weight: beta.
        direction: ``reverse`` is KL(model || start), ``forward`` is KL(start || model).
    """

    weight: Annotated[float, Field(gt=0)]
    direction: Literal["reverse", "forward"] = "reverse"


class Regulariser(Section):
    """What holds a training near its start; one or several."""

    l2_sp: L2SP | None = None
    ewc: EWC | None = None
    kl: KL | None = None

    @model_validator(mode="after")
    def _names_one(self) -> Regulariser:
        if not self.canonical():
            raise ValueError("names none; say l2_sp, ewc or kl, or leave it out")
        return self

    def canonical(self) -> dict[str, Any]:
        """Return the settings of a training; what decides ewc's Fisher information is that stage's."""
        found = {name: dict(value) for name, value in self if value is not None}
        if self.ewc:
            found["ewc"] = {"weight": self.ewc.weight}
        return found


class Replay(Section):
    """Rows of a source that are mixed into every training: a nested share of what the source has."""

    source: str
    share: Annotated[Share, Field(gt=0)]


def _distinct(marks: tuple[Fraction, ...]) -> tuple[Fraction, ...]:
    if len(set(marks)) < len(marks):
        raise ValueError("names the same mark twice")
    return tuple(sorted(marks))


Marks = Annotated[tuple[Annotated[Share, Field(gt=0, lt=1)], ...], AfterValidator(_distinct)]


class Optimisation(Section):
    """What may differ between the trainings of one run: how long, how fast, by which rule."""

    epochs: Annotated[int, Field(ge=1, strict=True)] = 3
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    decay: Annotated[float, Field(gt=0, le=1)] | None = None
    optimiser: Literal["adamw", "adafactor", "sgd"] = "adamw"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.03
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    clip: Annotated[float, Field(gt=0)] = 1.0
    batch_size: Annotated[int, Field(ge=1, strict=True)] = 128


class Training(Optimisation):
    """Settings of every training; the paper's where it says, FastChat's where it is silent.

    Args:
        stages: what each training of a strategy of several has of its own, in their order; ``{}`` for nothing.

    Source: Dong et al., arXiv 2310.05492, section 3.1 and appendix C.
    """

    ABSENT_WHEN: ClassVar[Mapping[str, Any]] = {"optimiser": "adamw"}

    stages: tuple[Optimisation, ...] = ()
    precision: Literal["float32", "bfloat16"] = "float32"
    method: Literal["full", "lora"] = "full"
    lora: Lora | None = None
    regulariser: Regulariser | None = None
    replay: Replay | None = None
    marks: Marks = ()
    max_length: Annotated[int, Field(ge=8, strict=True)] = 2048
    template: Literal["tokenizer", "vicuna_v1.1", "alpaca", "chatml", "plain"] = "tokenizer"
    mask: Literal["all", "last"] = "all"
    too_long: Literal["trim", "drop", "split", "error"] = "trim"

    @model_validator(mode="after")
    def _fits_together(self) -> Training:
        if self.lora and self.method != "lora":
            raise ValueError("lora has settings, and method is full; say method: lora, or lora: null")
        if self.method == "lora" and self.regulariser and self.regulariser.ewc:
            raise ValueError(
                "regulariser.ewc needs the Fisher information of what is trained, and an adapter is new: "
                "say l2_sp or kl, or method: full"
            )
        if self.decay is not None and self.schedule != "wsd":
            raise ValueError(f"decay is for schedule: wsd, and schedule is {self.schedule}; say schedule: wsd")
        if self.warmup + (self.decay or 0) > 1:
            raise ValueError(f"warmup {self.warmup} and decay {self.decay} are more than all steps together")
        for number in range(len(self.stages)):
            try:
                self.of_stage(number)
            except ValidationError as error:
                raise ValueError(f"stages.{number}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
        return self

    def of_stage(self, number: int) -> Training:
        """Return the settings of one training of several."""
        own = self.stages[number].model_dump(exclude_unset=True)
        return Training.model_validate({**self.model_dump(exclude_unset=True, exclude={"stages"}), **own})

    def rendering(self) -> dict[str, Any]:
        """Return what decides token ids and loss masks."""
        return self._canonical(("template", "mask", "max_length", "too_long"))

    def optimisation(self) -> dict[str, Any]:
        """Return what decides a training besides its start, its rows and its seed."""
        names = ("epochs", "learning_rate", "schedule", "warmup", "weight_decay", "betas", "eps", "clip")
        found = self._canonical((*names, "batch_size", "precision", "method", "optimiser"))
        if self.schedule == "wsd":
            found["decay"] = WSD_DECAY if self.decay is None else self.decay
        if self.method == "lora":
            found["lora"] = (self.lora or Lora()).canonical()
        if self.regulariser:
            found["regulariser"] = self.regulariser.canonical()
        return found

    def _canonical(self, names: Iterable[str]) -> dict[str, Any]:
        """Leave out what stands at the value that `ABSENT_WHEN` lists: a setting added later leaves old ids alone."""
        values = {name: getattr(self, name) for name in names}
        return {k: v for k, v in values.items() if k not in self.ABSENT_WHEN or v != self.ABSENT_WHEN[k]}
