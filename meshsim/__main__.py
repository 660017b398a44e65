"""``python -m meshsim``: the command line."""

from meshsim.cli import main

__all__: list[str] = []

main()
