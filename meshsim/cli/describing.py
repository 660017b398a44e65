"""``meshsim explain`` and ``meshsim schema``: what a scenario says, and what it may say."""

from __future__ import annotations

import click

from meshsim.cli.common import (
    change_options,
    changed,
    load_scenario,
    reports_problems,
    scenario_options,
)

__all__ = ["explain", "schema"]


@click.command("explain")
@click.argument("arguments", nargs=-1, metavar="[SCENARIO] PATH")
@scenario_options
@change_options
@reports_problems
def explain(
    arguments: tuple[str, ...],
    manifests: str | None,
    traffic: str | None,
    mesh: str | None,
    rates: dict[str, float],
    values: dict[str, str],
) -> None:
    """Say which value the field PATH of SCENARIO has, and where it comes from."""
    expected = 1 if manifests is not None else 2
    if len(arguments) != expected:
        raise click.UsageError("give SCENARIO PATH, or --manifests DIR and PATH")
    from meshsim.explanation import explain as explain_field

    topology = load_scenario(arguments[0] if manifests is None else None, manifests, traffic)
    if mesh is not None:
        values = {**values, "mesh": mesh}
    click.echo(explain_field(changed(topology, rates, values), arguments[-1]))


@click.command("schema")
@reports_problems
def schema() -> None:
    """Print the JSON Schema of a topology file, for editors."""
    import json

    from meshsim.topology import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
