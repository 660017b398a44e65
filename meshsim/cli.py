"""The command line: ``meshsim run | explain | schema | bench``.

Rule: a command reads its arguments, calls the library, and prints; it decides nothing about
the mesh.  Exit status 0: done; 1: the input is wrong or the run failed, every problem on
stderr and nothing written; 2: the command line itself is wrong.  The report goes to stdout,
progress and problems to stderr, so that ``meshsim run ... --json - | jq`` works.

Imports are made inside the commands: ``meshsim --help`` must not wait for numba.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec

import click

from meshsim.errors import ConfigError, MeshsimError, Problem
from meshsim.units import parse_duration

if TYPE_CHECKING:
    from meshsim.progress import Report
    from meshsim.results import Result
    from meshsim.topology.model import Topology

__all__ = ["main"]

_Parameters = ParamSpec("_Parameters")

_EXIT_FAILED = 1


class _Failed(click.ClickException):
    """A failed run or wrong input: the message as it is, exit status 1."""

    exit_code = _EXIT_FAILED

    def show(self, file: Any = None) -> None:
        """Print every problem on its own line of stderr."""
        click.echo(self.message, err=True)


def _reports_problems(command: Callable[_Parameters, None]) -> Callable[_Parameters, None]:
    """Turn the errors that meshsim raises on purpose into exit status 1."""

    @wraps(command)
    def wrapper(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except ConfigError as error:
            lines = [f"error: {problem}" for problem in error.problems]
            if len(lines) > 1:
                lines.append(f"{len(lines)} problems; nothing was written.")
            raise _Failed("\n".join(lines)) from error
        except (MeshsimError, OSError) as error:
            raise _Failed(f"error: {error}") from error

    return wrapper


# --- Arguments ------------------------------------------------------------------------------


def _scenario_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the ways of naming a scenario: a file, a folder, or manifests with traffic."""
    decorators = (
        click.option(
            "--manifests",
            metavar="DIR",
            help="Folder of Kubernetes and Istio manifests, instead of a SCENARIO.",
        ),
        click.option(
            "--traffic", metavar="FILE", help="Traffic (and measured services) for --manifests."
        ),
    )
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


def _load(scenario: str | None, manifests: str | None, traffic: str | None) -> Topology:
    """Load what the arguments name; exactly one of `scenario` and `manifests` is given."""
    if (scenario is None) == (manifests is None):
        raise click.UsageError("give either a SCENARIO or --manifests DIR")
    import meshsim

    return meshsim.load(scenario or manifests or "", traffic=traffic)


def _read_assignment(
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
    rates = {}
    for name, text in _read_assignment(context, parameter, assignments).items():
        try:
            rates[name] = float(text)
        except ValueError:
            raise click.BadParameter(f"{text!r} is not a rate [1/s]", ctx=context) from None
    return rates


def _read_precision(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> str | None:
    if text is not None:
        from meshsim.results.precision import parse_precision

        try:
            parse_precision(text)
        except ConfigError as error:
            raise click.BadParameter(str(error), ctx=context) from None
    return text


def _read_duration(context: click.Context, parameter: click.Parameter, text: str) -> str:
    try:
        parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx=context) from None
    return text


def _changed(topology: Topology, rates: dict[str, float], values: dict[str, str]) -> Topology:
    """Return `topology` with the rates and fields that the command line states."""
    from meshsim.topology import with_values

    if not rates and not values:
        return topology
    changes: dict[str, Any] = {f"traffic.{name}.rate": rate for name, rate in rates.items()}
    changes.update(values)
    return with_values(topology, changes)


# --- Output ---------------------------------------------------------------------------------


@contextlib.contextmanager
def _atomic_path(path: Path) -> Iterator[Path]:
    """Yield a sibling to write; it becomes `path` only if the block succeeds."""
    sibling = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield sibling
        os.replace(sibling, path)
    finally:
        sibling.unlink(missing_ok=True)


def _check_writable(*paths: str | None) -> None:
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


def _write(result: Result, json_file: str | None, png_file: str | None, save: str | None) -> None:
    """Write what was asked for; each file appears whole or not at all."""
    if json_file not in (None, "-"):
        with _atomic_path(Path(json_file or "")) as path:
            path.write_text(result.to_json() + "\n", encoding="utf-8")
    if png_file is not None:
        with _atomic_path(Path(png_file)) as path:
            result.plot.overview(path)
    if save is not None:
        result.save(save)


@contextlib.contextmanager
def _progress() -> Iterator[Report]:
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
            raise _Failed(f"interrupted {done}; nothing was written.") from None


# --- Commands -------------------------------------------------------------------------------


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="meshsim", message="%(prog)s %(version)s")
def _commands() -> None:
    """Simulate a service mesh: latency, errors, CPU and memory before it is built."""


@_commands.command("run")
@click.argument("scenario", required=False)
@_scenario_options
@click.option("--mesh", metavar="NAME", help="Mesh profile, e.g. istio-sidecar or none.")
@click.option(
    "--rate",
    "rates",
    multiple=True,
    metavar="CLASS=R",
    callback=_read_rates,
    help="Offered rate of a traffic class [1/s]; may be repeated.",
)
@click.option(
    "--set",
    "values",
    multiple=True,
    metavar="PATH=VALUE",
    callback=_read_assignment,
    help="Any field, e.g. services.reviews.workloads.v1.replicas=3; may be repeated.",
)
@click.option(
    "--duration",
    metavar="TIME",
    default="60s",
    show_default=True,
    callback=_read_duration,
    help="Simulated time of each run.",
)
@click.option(
    "--replications",
    type=click.IntRange(1, 10_000),
    metavar="N",
    default=10,
    show_default=True,
    help="Independent runs; the intervals come from their differences.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**62 - 1),
    metavar="N",
    default=1,
    show_default=True,
    help="Random seed.",
)
@click.option(
    "--precision",
    metavar="p99:5%",
    callback=_read_precision,
    help="Add replications until this interval is that narrow.",
)
@click.option("--json", "json_file", metavar="FILE|-", help="Write the result as JSON.")
@click.option("--png", "png_file", metavar="FILE", help="Draw the result.")
@click.option("--save", metavar="DIR", help="Save the whole result, for meshsim.Result.load.")
@_reports_problems
def _run(
    scenario: str | None,
    manifests: str | None,
    traffic: str | None,
    mesh: str | None,
    rates: dict[str, float],
    values: dict[str, str],
    duration: str,
    replications: int,
    seed: int,
    precision: str | None,
    json_file: str | None,
    png_file: str | None,
    save: str | None,
) -> None:
    """Simulate SCENARIO and print its report.

    SCENARIO is a topology file, or a folder of manifests.
    """
    _check_writable(json_file, png_file, save)
    topology = _changed(_load(scenario, manifests, traffic), rates, values)
    with _progress() as report:
        import meshsim

        result = meshsim.simulate(
            topology,
            duration=duration,
            replications=replications,
            seed=seed,
            mesh=mesh,
            precision=precision,
            progress=report,
        )
    _write(result, json_file, png_file, save)
    click.echo(result.to_json() if json_file == "-" else result.report())


@_commands.command("explain")
@click.argument("arguments", nargs=-1, metavar="[SCENARIO] PATH")
@_scenario_options
@_reports_problems
def _explain(arguments: tuple[str, ...], manifests: str | None, traffic: str | None) -> None:
    """Say which value the field PATH of SCENARIO has, and where it comes from."""
    expected = 1 if manifests is not None else 2
    if len(arguments) != expected:
        raise click.UsageError("give SCENARIO PATH, or --manifests DIR and PATH")
    from meshsim.explanation import explain as explain_field

    topology = _load(arguments[0] if manifests is None else None, manifests, traffic)
    click.echo(explain_field(topology, arguments[-1]))


@_commands.command("schema")
@_reports_problems
def _schema() -> None:
    """Print the JSON Schema of a topology file, for editors."""
    import json

    from meshsim.topology import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


@_commands.command("bench")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@_reports_problems
def _bench(as_json: bool) -> None:
    """Measure this machine: M/M/1, a chain, and a chain with sidecars."""
    from meshsim import benchmark

    with _progress() as report:
        measurements = benchmark.measure(report)
    click.echo(benchmark.to_json(measurements) if as_json else benchmark.table(measurements))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit; the status is as this module states.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the name of the program; by default those of the process.

    Raises
    ------
    SystemExit
        Always, with the exit status.
    """
    _commands.main(arguments, prog_name="meshsim")
    raise SystemExit(0)  # not reached: click exits itself
