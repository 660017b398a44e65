"""Numbers and lists as people read them: no exponent, no false 100 %, no endless list."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["NAMES_MAX", "WITHHELD", "listed", "number", "percent"]

#: Most names of one sentence.
NAMES_MAX = 5
#: Stands for a value that is not known or not shown.
WITHHELD = "-"


def number(value: float, digits: int = 3) -> str:
    """Write a number with `digits` significant ones, without an exponent.

    Examples
    --------
    >>> number(16432.1), number(0.01234), number(0)
    ('16,432', '0.0123', '0')
    """
    if math.isnan(value):
        return WITHHELD
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(decimals, 6)}f}"


def listed(names: Sequence[str]) -> str:
    """Name the first few, and count the others.

    Examples
    --------
    >>> listed(["a", "b"]), listed("abcdefg")
    ('a, b', 'a, b, c, d, e and 2 more')
    """
    more = f" and {len(names) - NAMES_MAX:,} more" if len(names) > NAMES_MAX else ""
    return ", ".join(names[:NAMES_MAX]) + more


def percent(share: float) -> str:
    """Write a share in percent; 100 % only if it is exactly that.

    Examples
    --------
    >>> percent(0.0989), percent(0.999999), percent(1)
    ('9.89 %', '99.99+ %', '100.00 %')
    """
    if math.isnan(share):
        return WITHHELD
    rounded = f"{100 * share:.2f}"
    return "99.99+ %" if rounded == "100.00" and share < 1 else f"{rounded} %"
