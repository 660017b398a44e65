"""The sidecar's CPU model against the measurement it was taken from."""

import csv
from pathlib import Path

import pytest

from meshsim.meshes import istio_sidecar

DATA = Path(__file__).parents[3] / "data" / "envoy_cpu.csv"
COST = istio_sidecar.PROFILE.cost


def rows(**wanted: str) -> list[dict[str, str]]:
    lines = [line for line in DATA.read_text().splitlines() if not line.startswith("#")]
    return [
        row
        for row in csv.DictReader(lines)
        if all(row[column] == value for column, value in wanted.items())
    ]


def cpu_ns(utilisation: float) -> float:
    return 2 * (COST.pass_ns + COST.wakeup_ns * (1 - utilisation))


def utilisation(rate_rps: float) -> float:
    """Solve rho = rate * cpu(rho) for one worker; linear in rho."""
    rate_per_ns = rate_rps * 1e-9
    idle_cpu_ns = 2 * (COST.pass_ns + COST.wakeup_ns)
    return rate_per_ns * idle_cpu_ns / (1 + rate_per_ns * 2 * COST.wakeup_ns)


def test_a_handshake_costs_what_was_measured() -> None:
    text = DATA.with_name("envoy_handshake.csv").read_text().splitlines()
    lines = csv.DictReader(line for line in text if not line.startswith("#"))
    (full,) = [row for row in lines if (row["key"], row["handshake"]) == ("rsa-2048", "full")]
    measured_us = (float(full["client_cpu_us"]) + float(full["server_cpu_us"])) / 2
    assert COST.handshake_ns / 1e3 == measured_us


def test_the_header_names_the_origin() -> None:
    header = [line for line in DATA.read_text().splitlines() if line.startswith("#")]
    assert "Envoy 1.40.0" in " ".join(header)


def test_cpu_per_request_at_both_ends() -> None:
    by_connections = {
        row["connections"]: float(row["client_cpu_us"])
        for row in rows(loop="closed", tls="plain", body_bytes="2")
    }
    assert cpu_ns(0.0) == by_connections["1"] * 1000
    assert cpu_ns(1.0) == by_connections["32"] * 1000


def test_utilisation_at_the_open_loop_rates() -> None:
    # Tolerance 0.10: at one rate the plain and the mTLS series, whose cost differs by at most
    # 4 % (closed loop rows), lie up to 0.07 apart, which is the repeatability of the machine;
    # 0.03 is left for the model.  Its largest error is +0.093 at 6,000/s: it is pessimistic
    # between half load and saturation.
    modelled = {row["rate_rps"]: utilisation(float(row["rate_rps"])) for row in rows(loop="open")}
    measured = {
        row["rate_rps"]: float(row["utilisation"]) for row in rows(loop="open", tls="plain")
    }
    assert set(measured) == {"500", "2000", "4000", "6000"}
    for rate, value in measured.items():
        assert modelled[rate] == pytest.approx(value, abs=0.10), rate
    assert modelled["6000"] == pytest.approx(0.573, abs=0.001)


def test_cost_per_byte_is_the_rise_with_large_bodies() -> None:
    small, large = (
        next(iter(rows(loop="closed", tls="plain", body_bytes=body, connections="4")))
        for body in ("2", "65536")
    )
    rise_ns = (float(large["client_cpu_us"]) - float(small["client_cpu_us"])) * 1000
    assert COST.byte_ns == pytest.approx(rise_ns / 65_534, rel=0.01)
