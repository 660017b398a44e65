"""``meshsim can-i``: may one call another, and by which rule."""

from __future__ import annotations

import sys

import click

from meshsim.cli.common import (
    change_options,
    changed,
    load_scenario,
    read_assignment,
    reports_problems,
    scenario_options,
)

__all__ = ["can_i"]


@click.command("can-i")
@click.argument("scenario", required=False)
@scenario_options
@change_options
@click.option("--from", "source", required=True, metavar="WHO",
              help="A service, a workload (web/v1) or a traffic class.")  # fmt: skip
@click.option("--to", "target", required=True, metavar="WHOM", help="A service or a workload.")
@click.option("--path", default="/", show_default=True, help="Path of the request.")
@click.option("--method", default="GET", show_default=True, help="Method of the request.")
@click.option("--host", metavar="NAME", help="Host of the request; default: the service.")
@click.option(
    "--port", type=click.IntRange(1, 65_535), help="Port of the pods; default: the service's."
)
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", callback=read_assignment,
              help="A header of the request; may be repeated.")  # fmt: skip
@click.option("--tcp", is_flag=True, help="Ask for a connection that is not HTTP.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@reports_problems
def can_i(
    scenario: str | None,
    manifests: str | None,
    traffic: str | None,
    mesh: str | None,
    rates: dict[str, float],
    values: dict[str, str],
    source: str,
    target: str,
    path: str,
    method: str,
    host: str | None,
    port: int | None,
    headers: dict[str, str],
    tcp: bool,
    as_json: bool,
) -> None:
    """Say whether WHO may make a request to WHOM in SCENARIO, and which rule decides.

    One line for each pair of workloads.  Exit status 0: all are allowed; 1: one is refused (or
    the scenario is wrong).
    """
    import json

    from meshsim.permission import can_i as ask

    if mesh is not None:
        values = {**values, "mesh": mesh}
    topology = changed(load_scenario(scenario, manifests, traffic), rates, values)
    answer = ask(
        topology,
        source,
        target,
        method=method,
        path=path,
        host=host,
        headers=headers,
        port=port,
        http=not tcp,
    )
    click.echo(json.dumps(answer.to_dict(), indent=2) if as_json else str(answer))
    if not answer:
        sys.exit(1)
