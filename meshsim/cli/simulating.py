"""``meshsim run`` and ``meshsim bench``: simulate a scenario, measure this machine."""

from __future__ import annotations

import click

from meshsim.cli.common import (
    change_options,
    changed,
    check_writable,
    load_scenario,
    progress,
    read_precision,
    reports_problems,
    result_options,
    run_options,
    scenario_options,
    write_result,
)

__all__ = ["bench", "run"]


@click.command("run")
@click.argument("scenario", required=False)
@scenario_options
@change_options
@run_options("Simulated time of each run.")
@click.option(
    "--replications",
    type=click.IntRange(1, 10_000),
    metavar="N",
    default=10,
    show_default=True,
    help="Independent runs; the intervals come from their differences.",
)
@click.option(
    "--precision",
    metavar="p99:5%",
    callback=read_precision,
    help="Add replications until this interval is that narrow.",
)
@result_options
@reports_problems
def run(
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
    check_writable(json_file, png_file, save)
    topology = changed(load_scenario(scenario, manifests, traffic), rates, values)
    with progress() as report:
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
    write_result(result, json_file, png_file, save)
    click.echo(result.to_json() if json_file == "-" else result.report())


@click.command("bench")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@reports_problems
def bench(as_json: bool) -> None:
    """Measure this machine: M/M/1, a chain, and a chain with sidecars."""
    from meshsim import benchmark

    with progress() as report:
        measurements = benchmark.measure(report)
    click.echo(benchmark.to_json(measurements) if as_json else benchmark.table(measurements))
