"""The words the model is written with: scalars with units, and distributions of a duration.

Rule: a duration is a string with a unit in YAML and `int` nanoseconds here; a size is a number
of bytes or a string with a unit; a number is a number (neither a quoted text nor a boolean).
A distribution names its family; a bare duration is the constant one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    Strict,
    WithJsonSchema,
    model_validator,
)

from meshsim.units import format_duration, format_size, parse_duration, parse_size

__all__ = [
    "Boolean",
    "Constant",
    "Distribution",
    "Duration",
    "Empirical",
    "Exponential",
    "Gamma",
    "Hyperexponential",
    "Integer",
    "Lognormal",
    "Model",
    "Number",
    "ParetoBounded",
    "Phase",
    "Probability",
    "Rate",
    "Size",
    "one_of",
]

# --- Scalars --------------------------------------------------------------------------------


def _read_duration(value: Any) -> int:
    if isinstance(value, str):
        return parse_duration(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if value == 0:
            return 0
        raise ValueError("a duration needs a unit: write e.g. 14ms, 1.5s, 1h30m")
    raise ValueError("not a duration: write e.g. 14ms, 1.5s, 1h30m")


def _read_size(value: Any) -> int:
    if isinstance(value, str):
        return parse_size(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError("not a size: write e.g. 250, 2kB, 64KiB")


#: A duration [ns]; in YAML a string with a unit.  From Python pass the string as well.
Duration = Annotated[
    int,
    BeforeValidator(_read_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(
        {"type": "string", "pattern": r"^([0-9.]+(ns|us|ms|s|m|h))+$|^0$", "examples": ["14ms"]}
    ),
]
#: A size [bytes].
Size = Annotated[
    int,
    BeforeValidator(_read_size),
    PlainSerializer(format_size, return_type=str),
    WithJsonSchema({"type": ["string", "integer"], "examples": ["2KiB", 250]}),
]
#: A number that is written as one: no quoted text, no boolean, not infinite.
Integer = Annotated[int, Strict()]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Boolean = Annotated[bool, Strict()]
Probability = Annotated[Number, Field(ge=0, le=1)]
#: Requests per second.
Rate = Annotated[Number, Field(ge=0, le=1e9)]


class Model(BaseModel):
    """Base of every element: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def one_of(element: BaseModel, names: Iterable[str]) -> str:
    """Return the name of the one field of `element` that is set.

    Raises
    ------
    ValueError
        If none or several of `names` are set.
    """
    names = tuple(names)
    said = [name for name in names if getattr(element, name) is not None]
    if len(said) != 1:
        found = f"; found {' and '.join(said)}" if said else ""
        raise ValueError(f"exactly one is wanted of {', '.join(names)}{found}")
    return said[0]


# --- Distributions --------------------------------------------------------------------------


class Constant(Model):
    """Always `value`.  Short form in YAML: the bare duration."""

    value: Duration


class Exponential(Model):
    """Exponential with mean `mean`.  Short form: ``{exponential: 14ms}``."""

    mean: Duration


class Lognormal(Model):
    """Lognormal, given by its mean and its 99th percentile (mean < p99 < 14.97 mean).

    sigma solves sigma * z99 - sigma**2 / 2 = ln(p99 / mean), the smaller root.
    """

    mean: Duration
    p99: Duration


class Gamma(Model):
    """Gamma with mean `mean` and shape `shape` > 0 (squared coefficient of variation 1/shape)."""

    mean: Duration
    shape: Number = Field(gt=0, le=1e6)


class ParetoBounded(Model):
    """Bounded Pareto on [low, high] with tail index `shape`."""

    low: Duration
    high: Duration
    shape: Number = Field(gt=0, le=100)


class Phase(Model):
    """One exponential branch of a hyperexponential."""

    probability: Probability
    mean: Duration


class Hyperexponential(Model):
    """One of several exponentials; the probabilities sum to 1."""

    phases: tuple[Phase, ...] = Field(min_length=1)


class Empirical(Model):
    """Drawn with replacement from measured values (at least one)."""

    values: tuple[Duration, ...] = Field(min_length=1)


class Distribution(Model):
    """A distribution of a duration: exactly one of its fields is set.

    In YAML a bare duration is a constant, and a single-key mapping names the family:
    ``{exponential: 14ms}``, ``{lognormal: {mean: 5ms, p99: 20ms}}``.
    """

    constant: Constant | None = None
    exponential: Exponential | None = None
    lognormal: Lognormal | None = None
    gamma: Gamma | None = None
    pareto_bounded: ParetoBounded | None = None
    hyperexponential: Hyperexponential | None = None
    empirical: Empirical | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            return {"constant": {"value": value}}
        if isinstance(value, dict):
            value = dict(value)
            for family, field in (("constant", "value"), ("exponential", "mean")):
                if isinstance(value.get(family), (str, int)):
                    value[family] = {field: value[family]}
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> Distribution:
        one_of(self, type(self).model_fields)
        return self

    @property
    def family(self) -> str:
        """Name of the one field that is set."""
        return one_of(self, type(self).model_fields)
