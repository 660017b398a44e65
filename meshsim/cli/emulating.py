"""``meshsim emulate``: a scenario on real sockets."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshsim.cli.common import (
    Failed,
    change_options,
    changed,
    check_writable,
    load_scenario,
    read_duration,
    reports_problems,
    result_options,
    run_options,
    scenario_options,
    write_result,
)
from meshsim.errors import IncompleteRun

if TYPE_CHECKING:
    from meshsim.progress import Report
    from meshsim.topology.model import Topology

__all__ = ["emulate"]


def _read_processes(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> int | str | None:
    """Read a number of processes, or "each"."""
    if text is None or text == "each":
        return text
    if not text.isdigit() or int(text) < 1:
        raise click.BadParameter(f"{text!r} is neither a number >= 1 nor 'each'", ctx=context)
    return int(text)


def _read_ttl(context: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    """Read a duration, if there is one."""
    return None if text is None else read_duration(context, parameter, text)


def _read_changes(
    context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
) -> list[tuple[str, str, str]]:
    """Read ``TIME:PATH=VALUE`` options."""
    changes = []
    for text in texts:
        at, colon, assignment = text.partition(":")
        path, equals, value = assignment.partition("=")
        if not (colon and equals and path and value):
            raise click.BadParameter(f"{text!r} is not of the form TIME:PATH=VALUE", ctx=context)
        changes.append((read_duration(context, parameter, at), path, value))
    return changes


@contextlib.contextmanager
def _progress() -> Iterator[Report]:
    """Yield a report that draws on a terminal only."""
    from meshsim.progress import Bar

    with Bar(visible=sys.stderr.isatty()) as bar:
        try:
            yield bar
        except KeyboardInterrupt:
            raise Failed("interrupted; nothing was written.") from None


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM interrupt as Ctrl-C does, so that the run ends in order."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _emulator(name: str) -> Any:
    """Return a function of the emulator, whose libraries are an extra."""
    try:
        return getattr(import_module("emulator"), name)
    except ModuleNotFoundError as error:
        needed = f"error: {error.name} is missing: pip install 'meshsim[emulator]'"
        raise Failed(needed) from error


@click.command("emulate")
@click.argument("scenario", required=False)
@scenario_options
@change_options
@run_options("Measured time of the mesh; the machine may need several times as long.")
@click.option(
    "--plane",
    type=click.Choice(["asyncio"]),
    default="asyncio",
    show_default=True,
    help="What carries the requests.",
)
@click.option(
    "--broker",
    metavar="URL",
    help="Broker instead of the embedded one: mqtt://host:port, or for mutual TLS "
    "mqtts://host:port?ca=FILE&cert=FILE&key=FILE; a password as in mqtt://:PASSWORD@host.",
)
@click.option(
    "--processes",
    metavar="N|each",
    callback=_read_processes,
    help="Processes for replicas; by default one for each modelled node.",
)
@click.option(
    "--dilation",
    type=click.FloatRange(min=0, min_open=True),
    metavar="K",
    help="Real seconds of one second of the mesh; by default as the machine needs.",
)
@click.option(
    "--mtls",
    type=click.Choice(["STRICT", "PERMISSIVE", "DISABLE"]),
    help="Mutual TLS between proxies; STRICT by default, DISABLE without proxies.",
)
@click.option(
    "--certificate-ttl",
    metavar="DURATION",
    callback=_read_ttl,
    help="How long a certificate lives, in the mesh's time; the next one comes at half of it. "
    "24h by default.",
)
@click.option(
    "--draws",
    type=click.Choice(["same", "fresh"]),
    default="same",
    show_default=True,
    help="Arrivals and service times of the simulation with this seed, or others.",
)
@click.option(
    "--change",
    "changes",
    multiple=True,
    metavar="TIME:PATH=VALUE",
    callback=_read_changes,
    help="Field that the control plane changes while the mesh runs; may be repeated.",
)
@click.option("--record", metavar="FILE", help="Log every stimulus, for meshsim replay.")
@result_options
@click.option(
    "--remote",
    "remote",
    multiple=True,
    metavar="NODE",
    help="Node that another machine hosts, with --join; may be repeated.",
)
@click.option("--join", "join_url", metavar="URL", help="Host a node of a mesh; no SCENARIO.")
@click.option(
    "--host",
    metavar="ADDRESS",
    default="127.0.0.1",
    show_default=True,
    help="Address of this machine to listen on, as the other machines reach it.",
)
@click.option(
    "--mosquitto-files",
    "mosquitto_files",
    metavar="DIR",
    help="Write the files of a Mosquitto for SCENARIO (with its --broker URL and --remote), "
    "and end.",
)
@reports_problems
def emulate(
    scenario: str | None,
    manifests: str | None,
    traffic: str | None,
    rates: dict[str, float],
    values: dict[str, str],
    json_file: str | None,
    png_file: str | None,
    save: str | None,
    join_url: str | None,
    mosquitto_files: str | None,
    **options: Any,
) -> None:
    """Run SCENARIO on real sockets and print its report.

    SCENARIO is a topology file, or a folder of manifests.  Ctrl-C ends the load, and prints the
    report of what there was.
    """
    if join_url is not None:
        if scenario is not None or manifests is not None:
            raise click.UsageError("--join takes no SCENARIO: the mesh that is joined has it")
        with _terminable():
            _emulator("join")(join_url, options["host"])
        return
    check_writable(json_file, png_file, save, options["record"])
    topology = changed(load_scenario(scenario, manifests, traffic), rates, values)
    if mosquitto_files is not None:
        _prepare_mosquitto(topology, mosquitto_files, options)
        return
    failed = None
    with _progress() as report, _terminable():
        try:
            result = _emulator("emulate")(topology, progress=report, **options)
        except IncompleteRun as error:
            result, failed = error.result, error
    write_result(result, json_file, png_file, save)
    click.echo(result.to_json() if json_file == "-" else result.report())
    if failed is not None:
        raise failed


def _prepare_mosquitto(topology: Topology, folder: str, options: dict[str, Any]) -> None:
    """Write the files, and say how they are used."""
    used = {name: options[name] for name in ("broker", "mesh", "remote")}
    configuration, url = _emulator("prepare_mosquitto")(topology, Path(folder), **used)
    click.echo(f"Start the broker with\n  mosquitto -c {configuration}\nand the mesh with")
    click.echo(f'  meshsim emulate SCENARIO --broker "$(cat {url})"')
