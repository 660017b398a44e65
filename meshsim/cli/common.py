"""What the commands have in common: arguments, errors, files, progress.

Imports of what is slow to load are made inside the functions.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import click

from meshsim.errors import ConfigError, MeshsimError, Problem
from meshsim.units import parse_duration

if TYPE_CHECKING:
    from meshsim.progress import Report
    from meshsim.results import Result
    from meshsim.topology.model import Topology

__all__ = [
    "Failed",
    "atomic_path",
    "change_options",
    "changed",
    "check_writable",
    "load_scenario",
    "progress",
    "read_assignment",
    "read_duration",
    "read_precision",
    "reports_problems",
    "result_options",
    "run_options",
    "scenario_options",
    "write_result",
]

_Parameters = ParamSpec("_Parameters")

_EXIT_FAILED = 1


class Failed(click.ClickException):
    """A failed run or wrong input: the message as it is, exit status 1."""

    exit_code = _EXIT_FAILED

    def show(self, file: Any = None) -> None:
        """Print every problem on its own line of stderr."""
        click.echo(self.message, err=True)


def reports_problems(command: Callable[_Parameters, None]) -> Callable[_Parameters, None]:
    """Turn the errors that meshsim raises on purpose into exit status 1."""

    @wraps(command)
    def wrapper(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except ConfigError as error:
            lines = [f"error: {problem}" for problem in error.problems]
            if len(lines) > 1:
                lines.append(f"{len(lines)} problems; nothing was written.")
            raise Failed("\n".join(lines)) from error
        except (MeshsimError, OSError) as error:
            raise Failed(f"error: {error}") from error

    return wrapper


# --- Arguments ------------------------------------------------------------------------------


def scenario_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the ways of naming a scenario: a file, a folder, or manifests with traffic."""
    return _with_options(
        command,
        click.option(
            "--manifests",
            metavar="DIR",
            help="Folder of Kubernetes and Istio manifests, instead of a SCENARIO.",
        ),
        click.option(
            "--traffic", metavar="FILE", help="Traffic (and measured services) for --manifests."
        ),
    )


def change_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the ways of changing a scenario: its mesh, its rates, any field."""
    return _with_options(
        command,
        click.option("--mesh", metavar="NAME", help="Mesh profile, e.g. istio-sidecar or none."),
        click.option(
            "--rate",
            "rates",
            multiple=True,
            metavar="CLASS=R",
            callback=_read_rates,
            help="Offered rate of a traffic class [1/s]; may be repeated.",
        ),
        click.option(
            "--set",
            "values",
            multiple=True,
            metavar="PATH=VALUE",
            callback=read_assignment,
            help="Any field, e.g. services.reviews.workloads.v1.replicas=3; may be repeated.",
        ),
    )


def run_options(duration_help: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return what adds how long to run, explained by `duration_help`, and the random seed."""
    return lambda command: _with_options(
        command,
        click.option(
            "--duration",
            metavar="TIME",
            default="60s",
            show_default=True,
            callback=read_duration,
            help=duration_help,
        ),
        click.option(
            "--seed",
            type=click.IntRange(0, 2**62 - 1),
            metavar="N",
            default=1,
            show_default=True,
            help="Random seed.",
        ),
    )


def result_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the files that a result may be written to."""
    return _with_options(
        command,
        click.option("--json", "json_file", metavar="FILE|-", help="Write the result as JSON."),
        click.option(
            "--png", "png_file", metavar="FILE", callback=_read_figure, help="Draw the result."
        ),
        click.option(
            "--save", metavar="DIR", help="Save the whole result, for meshsim.Result.load."
        ),
    )


def _with_options(
    command: Callable[..., None], *options: Callable[[Callable[..., None]], Callable[..., None]]
) -> Callable[..., None]:
    """Add `options`, which the help lists in this order."""
    for option in reversed(options):
        command = option(command)
    return command


def load_scenario(scenario: str | None, manifests: str | None, traffic: str | None) -> Topology:
    """Load what the arguments name; exactly one of `scenario` and `manifests` is given."""
    if (scenario is None) == (manifests is None):
        raise click.UsageError("give either a SCENARIO or --manifests DIR")
    import meshsim

    return meshsim.load(scenario or manifests or "", traffic=traffic)


def read_assignment(
    context: click.Context, parameter: click.Parameter, assignments: tuple[str, ...]
) -> dict[str, str]:
    """Read ``NAME=VALUE`` options in order; the last one of a name wins."""
    values = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not (name and equals and value):
            raise click.BadParameter(
                f"{assignment!r} is not of the form {parameter.metavar}", ctx=context
            )
        values[name] = value
    return values


def _read_rates(
    context: click.Context, parameter: click.Parameter, assignments: tuple[str, ...]
) -> dict[str, float]:
    """Read ``CLASS=R`` options; a rate is a number [1/s]."""
    rates = {}
    for name, text in read_assignment(context, parameter, assignments).items():
        try:
            rates[name] = float(text)
        except ValueError:
            raise click.BadParameter(f"{text!r} is not a rate [1/s]", ctx=context) from None
    return rates


def _read_figure(
    context: click.Context, parameter: click.Parameter, file: str | None
) -> str | None:
    """Refuse ``-``, which stands for a terminal that shows text."""
    if file == "-":
        raise click.BadParameter("a figure needs a file, e.g. result.png", ctx=context)
    return file


def read_precision(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> str | None:
    """Check a precision such as ``p99:5%``."""
    if text is not None:
        from meshsim.results.precision import parse_precision

        try:
            parse_precision(text)
        except ConfigError as error:
            raise click.BadParameter(str(error), ctx=context) from None
    return text


def read_duration(context: click.Context, parameter: click.Parameter, text: str) -> str:
    """Check a duration such as ``60s``."""
    try:
        parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx=context) from None
    return text


def changed(topology: Topology, rates: dict[str, float], values: dict[str, str]) -> Topology:
    """Return `topology` with the rates and fields that the command line states."""
    from meshsim.topology import with_values

    if not rates and not values:
        return topology
    changes: dict[str, Any] = {f"traffic.{name}.rate": rate for name, rate in rates.items()}
    changes.update(values)
    return with_values(topology, changes)


# --- Output ---------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a sibling to write; it becomes `path` only if the block succeeds."""
    sibling = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield sibling
        os.replace(sibling, path)
    finally:
        sibling.unlink(missing_ok=True)


def check_writable(*paths: str | None) -> None:
    """Refuse before the run what could not be written after it."""
    problems = []
    for path in paths:
        if path in (None, "-"):
            continue
        folder = Path(path or "").resolve().parent
        if not folder.is_dir():
            problems.append(Problem("no such folder", file=str(folder)))
        elif not os.access(folder, os.W_OK):
            problems.append(Problem("folder is not writable", file=str(folder)))
    if problems:
        raise ConfigError(problems)


def write_result(
    result: Result, json_file: str | None, png_file: str | None, save: str | None
) -> None:
    """Write what was asked for; each file appears whole or not at all."""
    if json_file not in (None, "-"):
        with atomic_path(Path(json_file or "")) as path:
            path.write_text(result.to_json() + "\n", encoding="utf-8")
    if png_file is not None:
        with atomic_path(Path(png_file)) as path:
            result.plot.overview(path)
    if save is not None:
        result.save(save)


@contextlib.contextmanager
def progress() -> Iterator[Report]:
    """Yield a report that draws on a terminal only, and announces a compilation anywhere.

    An interrupted run says how far it came.
    """
    from meshsim import kernel
    from meshsim.progress import Bar

    with Bar(visible=sys.stderr.isatty()) as bar:

        def report(done: float, total: float, name: str) -> None:
            if bar.last is None and not kernel.compiled():
                click.echo("First run of this version: compiling the engine, once.", err=True)
            bar(done, total, name)

        try:
            yield report
        except KeyboardInterrupt:
            bar.close()
            done = "before the run began"
            if bar.last is not None:
                count, total, name = bar.last
                done = f"while {name}: {count:g} of {total:g} done"
            raise Failed(f"interrupted {done}; nothing was written.") from None
