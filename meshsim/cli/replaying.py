"""``meshsim replay``: tell a recorded proxy's stimuli to a new engine."""

from __future__ import annotations

import importlib

import click

from meshsim.cli.common import Failed, reports_problems

__all__ = ["replay"]


@click.command("replay")
@click.argument("file")
@reports_problems
def replay(file: str) -> None:
    """Decide again what was decided in FILE, and say whether it came out the same.

    FILE was written by an emulation that records.  Exit status 1 if a decision differs; the
    first that does is told with what led to it.
    """
    # By its name: the command line is the simulator's, which does without the emulator.
    found = importlib.import_module("emulator.decisions.replay").replay(file)
    if found.divergences:
        raise Failed(found.report())
    click.echo(found.report())
