"""Your own policy: an ordinary Python function, compiled and called where a built-in one would be.

Rule: a function of one documented signature becomes a policy by a decorator.  It is compiled by
itself when a scenario first uses it, and called by its address, so that the engine is not
compiled again; with JIT off it is called as it is.  It sees what a built-in policy sees and no
more: one proxy's belief, the time, that proxy's random stream, and a memory of its own.

==================  ============================================================  ==============
decorator           signature                                                     returns
==================  ============================================================  ==============
`load_balancer`     ``(hosts, members, request, memory, now_ns, rng)``            position in
                                                                                  `members`, or
                                                                                  `NO_HOST`
`.on_response`      ``(hosts, host, failed, rtt_ns, memory, now_ns)``             nothing
`retry_policy`      ``(outcome, memory, now_ns, rng)``                            back-off [ns],
                                                                                  or < 0: answer
`admission_policy`  ``(cluster, memory, now_ns, rng)``                            0, or the
                                                                                  status to
                                                                                  answer
==================  ============================================================  ==============

- ``hosts`` are HOST rows and ``members`` the rows that may be picked: ``hosts["requests_active"]
  [members[0]]``; ``hosts["healthy"]`` is 0 for a host that is not to be picked;
- ``request`` is a `Request`, ``outcome`` an `Outcome`, ``cluster`` a CLUSTER row
  (``cluster["requests_active"]``);
- ``memory`` is an array of floats, zero at first, of this proxy and cluster: as many as that one
  of the cluster's policies asks for that asks for most; they share them;
- ``rng`` is for `meshsim.rng.next_uniform(rng)` and `next_index(rng, count)`.

A retry decides on conditions and back-off; `num_retries`, the retry circuit breaker and the
timeouts hold as ever.  A position out of range is an error of the run.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numba
from numba.core.errors import NumbaError

from meshsim.errors import ConfigError, Problem
from meshsim.jit import JIT_ENABLED
from meshsim.policy.custom.entries import INTERPRETED, KINDS, Outcome, Request

__all__ = [
    "CustomPolicy",
    "Outcome",
    "Request",
    "admission_policy",
    "define",
    "find",
    "load_balancer",
    "retry_policy",
]

_MEMORY_MAX = 1_000_000
#: What numba says around the reason.
_NOISE = re.compile(r"(Failed in |Traceback|During: |File \"|\^|Unknown attribute reason)")


class CustomPolicy:
    """A function of the user's that decides in proxies; made by the decorators of this module.

    Parameters
    ----------
    kind : str
        "load_balancer", "retry" or "admission".
    function : callable
    memory : int
        Floats of memory for each proxy and cluster, 0 <= memory <= 1,000,000.

    Attributes
    ----------
    name : str
        ``module:function``, as a scenario refers to it.
    learns : CustomPolicy or None
        What `on_response` was given.

    Raises
    ------
    ConfigError
        If the parameters of `function` are not those of its kind.
    """

    def __init__(self, kind: str, function: Callable[..., Any], memory: int = 0) -> None:
        if not 0 <= memory <= _MEMORY_MAX:
            raise ConfigError(f"memory: found {memory}, allowed: 0 to {_MEMORY_MAX:,}")
        self.kind = kind
        self.function = function
        self.memory = memory
        self.name = _name_of(function)
        self.learns: CustomPolicy | None = None
        self._address: int | None = None
        self._compiled: Any = None
        self._check_parameters()

    def _call__(self, *arguments: Any) -> Any:
        """Call the function itself, not compiled."""
        return self.function(*arguments)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name}>"

    def on_response(self, function: Callable[..., Any]) -> CustomPolicy:
        """Decorate the function that learns from each ended try of this load balancer.

        Raises
        ------
        ConfigError
            If its parameters are not ``(hosts, host, failed, rtt_ns, memory, now_ns)``.
        """
        self.learns = CustomPolicy("on_response", function, self.memory)
        return self.learns

    @property
    def address(self) -> int:
        """Where its compiled code is; compiles it the first time.

        Raises
        ------
        ConfigError
            If it cannot be compiled; names the line.
        """
        if self._address is None:
            self._address = self._compile()
        return self._address

    def _compile(self) -> int:
        kind = KINDS[self.kind]
        if not JIT_ENABLED:
            INTERPRETED.append(kind.entry(self.function))
            return len(INTERPRETED)  # counts from 1: 0 is NO_FUNCTION
        options = {"nogil": True, "_nrt": False}
        try:
            function = numba.njit(**options)(self.function)
            function.compile(kind.takes)
            entry = numba.njit(**options)(kind.entry(function))
            entry.compile(kind.called)
        except (NumbaError, RuntimeError) as error:  # RuntimeError: it allocates
            raise ConfigError([self._problem(error)]) from None
        self._compiled = entry  # keeps the machine code alive
        compiled = entry.overloads[kind.called.args]
        return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))

    def _problem(self, error: Exception) -> Problem:
        """Say where and why the function cannot be compiled, in one line."""
        code = self.function.__code__
        text = str(error)
        lines = re.findall(
            rf'File "[^"]*{re.escape(Path(code.co_filename).name)}", line (\d+)', text
        )
        location = getattr(error, "loc", None)
        line = int(lines[-1]) if lines else getattr(location, "line", code.co_firstlineno)
        reasons = [part.strip() for part in text.splitlines() if part.strip()]
        reason = next((part for part in reasons if not _NOISE.match(part)), "")
        what = f"{self.kind} {self.name} cannot be compiled: {reason}"
        return Problem(what, code.co_filename, line)

    def _check_parameters(self) -> None:
        wanted = KINDS[self.kind].parameters
        found = tuple(inspect.signature(self.function).parameters)
        if len(found) != len(wanted):
            code = self.function.__code__
            problem = Problem(
                f"a function of kind {self.kind} takes {len(wanted)} parameters",
                code.co_filename,
                code.co_firstlineno,
                found=f"({', '.join(found)})",
                allowed=f"({', '.join(wanted)})",
            )
            raise ConfigError([problem])


#: By name; a function that is defined again replaces the one before, as in a notebook.
_REGISTRY: dict[str, CustomPolicy] = {}


def define(kind: str, function: Callable[..., Any], memory: int = 0) -> CustomPolicy:
    """Make `function` a policy of `kind`, known by its name from now on."""
    policy = _REGISTRY[_name_of(function)] = CustomPolicy(kind, function, memory)
    return policy


def _name_of(function: Callable[..., Any]) -> str:
    return f"{function.__module__}:{function.__qualname__}"


def _decorator(kind: str, function: Callable[..., Any] | None, memory: int) -> Any:
    if function is None:
        return lambda function: define(kind, function, memory)
    return define(kind, function, memory)


def load_balancer(function: Callable[..., Any] | None = None, *, memory: int = 0) -> Any:
    """Make a function a load balancer.

    Parameters
    ----------
    function : callable
        ``(hosts, members, request, memory, now_ns, rng) -> int``; see the module.
    memory : int
        Floats it remembers for each proxy and cluster.

    Returns
    -------
    CustomPolicy

    Examples
    --------
    >>> @load_balancer
    ... def idlest(hosts, members, request, memory, now_ns, rng):
    ...     best = 0
    ...     for position in range(1, len(members)):
    ...         active = hosts["requests_active"][members[position]]
    ...         if active < hosts["requests_active"][members[best]]:
    ...             best = position
    ...     return best
    """
    return _decorator("load_balancer", function, memory)


def retry_policy(function: Callable[..., Any] | None = None, *, memory: int = 0) -> Any:
    """Make a function ``(outcome, memory, now_ns, rng) -> back-off [ns] or < 0`` a retry policy."""
    return _decorator("retry", function, memory)


def admission_policy(function: Callable[..., Any] | None = None, *, memory: int = 0) -> Any:
    """Make a function ``(cluster, memory, now_ns, rng) -> 0 or status`` an admission policy."""
    return _decorator("admission", function, memory)


def find(name: str, kind: str) -> CustomPolicy:
    """Return the policy that a scenario calls ``module:function``, importing the module.

    Raises
    ------
    ConfigError
        If there is no such policy, or it is of another kind.
    """
    module, _, function = name.partition(":")
    if name not in _REGISTRY and module and function and module not in sys.modules:
        try:
            import_module(module)
        except ImportError as error:
            raise ConfigError(f"custom policy {name}: {error}") from None
    policy = _REGISTRY.get(name)
    if policy is None:
        known = ", ".join(sorted(_REGISTRY)) or "none is defined"
        raise ConfigError(f"no custom policy {name}; allowed: module:function, known: {known}")
    if policy.kind != kind:
        raise ConfigError(f"custom policy {name} is of kind {policy.kind}; allowed: {kind}")
    return policy
