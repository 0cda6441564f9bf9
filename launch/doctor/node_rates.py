"""Checks of `all4one doctor`: the rates of this machine, which `--nodes` compares between nodes."""

from pathlib import Path

from launch.doctor.findings import Finding, ok, problem
from launch.node_check.files import read_rate
from launch.node_check.rates import Rate, measure_node, written

SECONDS = 2.0
"""Time of each measurement."""


def rates(_: Path) -> list[Finding]:
    """Measure matrix products, memory and the decode of JPEGs."""
    found = measure_node(None, seconds=SECONDS)
    findings = [ok(rate, written(rate, value)) for rate, value in found.rates.items()]
    failed = [problem(rate, why, "exclude this node from jobs") for rate, why in found.failures.items()]
    return [finding for one in (*findings, *failed) for finding in one]


def read_of_set(data: Path) -> list[Finding]:
    """Measure how fast shards are read from the disk of a set."""
    return ok(Rate.READ, f"{written(Rate.READ, read_rate(data, SECONDS))} at random places of {data}")
