"""Traffic: what enters the mesh, from whom, and when.

Rule: a traffic class is either open loop (arrivals that do not wait for responses) or closed
loop (users who do).  Rates are requests per second.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from meshsim.topology.base import (
    Distribution,
    Duration,
    Integer,
    Model,
    Number,
    Rate,
    Size,
    one_of,
)
from meshsim.units import NS_PER_S

__all__ = [
    "Arrivals",
    "Batch",
    "ClosedLoop",
    "Diurnal",
    "ModulatedPhase",
    "ModulatedPoisson",
    "Piecewise",
    "Poisson",
    "RatePoint",
    "Recorded",
    "Renewal",
    "TrafficClass",
]


class Poisson(Model):
    """Poisson arrivals at `rate` [1/s].  Short form: ``{poisson: 200}``."""

    rate: Rate


class Renewal(Model):
    """Independent intervals of any distribution."""

    interval: Distribution


class Batch(Model):
    """Poisson batches: `rate` [requests/s] in batches of geometric or fixed size of mean `size`."""

    rate: Rate
    size: Number = Field(ge=1, le=1e6)
    size_distribution: Literal["fixed", "geometric"] = "fixed"


class ModulatedPhase(Model):
    """One phase of a Markov-modulated Poisson process: its rate and mean sojourn."""

    rate: Rate
    mean_sojourn: Duration


class ModulatedPoisson(Model):
    """MMPP: phases follow one another cyclically, sojourns exponential, Poisson within."""

    phases: tuple[ModulatedPhase, ...] = Field(min_length=2)


class RatePoint(Model):
    """Rate [1/s] at a time; linear in between, constant after the last."""

    at: Duration
    rate: Rate


class Piecewise(Model):
    """Poisson with a rate that is piecewise linear in time (two points at one time: a step)."""

    points: tuple[RatePoint, ...] = Field(min_length=1)


class Diurnal(Model):
    """Poisson with rate mean * (1 + amplitude * sin(2 pi (t + phase) / period))."""

    mean: Rate
    amplitude: Number = Field(ge=0, le=1)
    period: Duration = 24 * 3_600 * NS_PER_S
    phase: Duration = 0


class Recorded(Model):
    """Arrival times as recorded, from the start of the run, ascending; no repetition."""

    times: tuple[Duration, ...] = ()
    file: str | None = Field(default=None, description="one time [s] a line, beside the scenario")


class Arrivals(Model):
    """An open-loop arrival process: exactly one of its fields is set."""

    poisson: Poisson | None = None
    renewal: Renewal | None = None
    batch: Batch | None = None
    modulated_poisson: ModulatedPoisson | None = None
    piecewise: Piecewise | None = None
    diurnal: Diurnal | None = None
    recorded: Recorded | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("poisson"), (int, float)):
            value = {**value, "poisson": {"rate": value["poisson"]}}
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> Arrivals:
        one_of(self, type(self).model_fields)
        return self

    @property
    def family(self) -> str:
        """Name of the one field that is set."""
        return one_of(self, type(self).model_fields)


class ClosedLoop(Model):
    """`users` people who each wait for the response, think, and ask again."""

    users: Integer = Field(ge=1, le=10_000_000)
    think_time: Distribution


class TrafficClass(Model):
    """Requests of one kind entering the mesh at one service.  One of arrivals, closed_loop."""

    to: str
    operation: str = "default"
    method: str = "GET"
    path: str = "/"
    headers: dict[str, str] = Field(default_factory=dict)
    authority: str = ""
    request_bytes: Size = 500
    response_bytes: Size = 2000
    priority: Integer = Field(default=0, ge=0, le=3, description="0 is served first")
    zone: str | None = None
    users: Integer | None = Field(
        default=None,
        ge=1,
        description="distinct values of the headers that consistent hashing reads, which limits"
        " can tell apart too; drawn uniformly for each request; none: one value, as written in"
        " headers",
    )
    arrivals: Arrivals | None = None
    closed_loop: ClosedLoop | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> TrafficClass:
        one_of(self, ("arrivals", "closed_loop"))
        return self
