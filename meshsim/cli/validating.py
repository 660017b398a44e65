"""``meshsim validate``: predict, emulate, compare."""

from __future__ import annotations

from pathlib import Path

import click

from meshsim.cli.common import (
    atomic_path,
    check_writable,
    load_scenario,
    progress,
    reports_problems,
    scenario_options,
)

__all__ = ["validate"]


@click.command("validate")
@click.argument("scenario", required=False)
@scenario_options
@click.option(
    "--suite",
    "suite_name",
    is_flag=False,
    flag_value="quick",
    metavar="[quick|full]",
    help="Validate the whole suite: quick (within 45 minutes) or full (hours).",
)
@click.option(
    "--dilation",
    type=click.FloatRange(1, 100),
    metavar="K",
    help="A second of the scenario takes K seconds; by default as its service times need.",
)
@click.option("--recalibrate", is_flag=True, help="Measure this machine again.")
@click.option("--json", "json_file", metavar="FILE|-", help="Write the scores as JSON.")
@click.option("--report", "folder", metavar="DIR", help="Write an HTML and a Markdown report.")
@reports_problems
def validate(
    scenario: str | None,
    manifests: str | None,
    traffic: str | None,
    suite_name: str | None,
    dilation: float | None,
    recalibrate: bool,
    json_file: str | None,
    folder: str | None,
) -> None:
    """Say how wrong the simulator is about SCENARIO, or about the suite.

    The machine is calibrated on a single service, the scenario is predicted, and only then
    emulated on real sockets.  Exit status 0 whatever the verdicts: an error that is outside
    its band is an answer.
    """
    named = scenario is not None or manifests is not None
    if named == (suite_name is not None):
        raise click.UsageError("give a SCENARIO (or --manifests DIR), or --suite")
    check_writable(json_file, folder)
    topology = load_scenario(scenario, manifests, traffic) if named else None
    with progress() as report:
        from meshsim.validation import validate as validate_scenarios

        outcome = validate_scenarios(
            topology,
            suite_name or "quick",
            dilation=dilation,
            recalibrate=recalibrate,
            folder=folder,
            progress=report,
        )
    if folder is not None:
        outcome.report(folder)
    if json_file not in (None, "-"):
        with atomic_path(Path(json_file or "")) as path:
            path.write_text(outcome.to_json() + "\n", encoding="utf-8")
    click.echo(outcome.to_json() if json_file == "-" else str(outcome))
