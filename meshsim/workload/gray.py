"""Gray failure: a server that is well for whoever checks it, and not for some of its requests.

Rule: of the requests of some callers a share is hit.  One uniform u of each request decides: it
fails (500, without work) if ``u < share * error_rate``, else is served at `speed` if
``u < share``, else as always.  Health checks are not requests.

References
----------
P. Huang et al., "Gray failure: the Achilles' heel of cloud-scale systems", HotOS 2017:
differential observability.
"""

from __future__ import annotations

from meshsim.jit import kernel_jit

__all__ = ["FAILS", "SLOW", "SOUND", "gray_outcome"]

SOUND = 0
SLOW = 1
FAILS = 2


@kernel_jit
def gray_outcome(uniform: float, share: float, error_rate: float) -> int:
    """Return what becomes of a request: SOUND, SLOW or FAILS.

    Parameters
    ----------
    uniform : float
        Draw of the request, 0 <= u < 1.
    share : float
        Of the requests that are hit, 0 to 1.
    error_rate : float
        Of those, the share that fails, 0 to 1.
    """
    if uniform >= share:
        return SOUND
    return FAILS if uniform < share * error_rate else SLOW
