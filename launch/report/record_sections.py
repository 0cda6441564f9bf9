"""Sections of tables about one run. They need neither images nor weights, and loading this module loads no torch."""

from collections.abc import Iterator

from launch.report import tables
from launch.report.facts import RunFacts
from launch.report.page import Section


def result_sections(facts: RunFacts) -> Iterator[Section]:
    """Yield the results of `all4one eval`, if there are any."""
    yield from section_of("Results", tables.results(facts), tables.evaluated_of(facts))


def record_sections(facts: RunFacts) -> Iterator[Section]:
    """Yield what the ledger of a run tells: its goodput, ranks, attempts and node checks. Empty ones are left out."""
    yield from section_of("Goodput", tables.goodput(facts), "Where the time of the run went.")
    yield from section_of(
        "Ranks", tables.ranks(facts), "Time in which each rank computes, without messages and data."
    )
    yield from section_of("Attempts", tables.attempts(facts))
    yield from section_of(
        "Node checks", tables.node_checks(facts), "Checks of the nodes of a job before its ranks started."
    )


def section_of(title: str, table: tables.Table, words: str = "") -> list[Section]:
    """Return a section with a table. Without rows there is none."""
    return [Section(title, words=words, table=table)] if table.rows else []
