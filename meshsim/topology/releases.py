"""What differs between releases of Envoy: names of counters, and defaults.

Rule: a scenario has one release of Envoy, `envoy_release`, by default that of its mesh's profile.
The rules of `meshsim.policy` are those of Envoy 1.40.  What an earlier release does otherwise:

- before 1.39 a request that `max_requests` refuses is counted as ``upstream_rq_pending_overflow``,
  like one that finds the queue full; since then as ``upstream_rq_active_overflow``;
- before 1.28 one host could always be ejected, whatever `max_ejection_percent`; since 1.32
  `always_eject_one_host` says so.

References
----------
envoyproxy/envoy pull request 44164 (upstream_rq_active_overflow); measured on 1.36.4, 1.39.3 and
1.40.0 (``make conformance``).  Envoy, source/extensions/outlier_detection (max_ejection_percent);
api/envoy/config/cluster/v3/outlier_detection.proto.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["RELEASE_PATTERN", "Release", "always_ejects_one", "as_counted", "release_of"]

#: Major and minor version.
Release = tuple[int, int]
#: Text of a release: 1.40, or 1.40.0.
RELEASE_PATTERN = r"^1\.\d{1,3}(\.\d{1,3})?$"
_LATEST: Release = (1, 40)
_ACTIVE_OVERFLOW: Release = (1, 39)
_PERCENT_OF_FIRST: Release = (1, 28)


def release_of(text: str | None) -> Release:
    """Return the release that a text names; without one, the one that the rules are of.

    Examples
    --------
    >>> release_of("1.36.4")
    (1, 36)
    """
    if text is None:
        return _LATEST
    major, minor, *_ = map(int, text.split("."))
    return major, minor


def always_ejects_one(release: Release) -> bool:
    """Return whether the first ejection of a cluster is allowed whatever the percentage."""
    return release < _PERCENT_OF_FIRST


def as_counted(counts: Mapping[str, int], release: Release) -> dict[str, int]:
    """Return counters by the names that a release has for them.

    Parameters
    ----------
    counts : mapping of str to int
        By the names of the present release, behind any prefix.
    release : Release

    Examples
    --------
    >>> as_counted({"upstream_rq_active_overflow": 2, "upstream_rq_pending_overflow": 1}, (1, 36))
    {'upstream_rq_pending_overflow': 3}
    """
    if release >= _ACTIVE_OVERFLOW:
        return dict(counts)
    found: dict[str, int] = {}
    for name, count in counts.items():
        name = name.replace("upstream_rq_active_overflow", "upstream_rq_pending_overflow")
        found[name] = found.get(name, 0) + count
    return found
