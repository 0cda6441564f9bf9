"""What a check of `all4one doctor` finds."""

from dataclasses import dataclass

OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclass(frozen=True)
class Finding:
    """One line of the page."""

    level: str
    """`ok`; `warning`: runs go on, but worse than they could or only here; `problem`: runs will fail."""
    check: str
    """What was looked at, in a word or two."""
    what: str
    """What is there."""
    fix: str = ""
    """What to do about it."""


def ok(check: str, what: str) -> list[Finding]:
    """Nothing to mend."""
    return [Finding(OK, check, what)]


def warning(check: str, what: str, fix: str) -> list[Finding]:
    """Something that the user should know of."""
    return [Finding(WARNING, check, what, fix)]


def problem(check: str, what: str, fix: str) -> list[Finding]:
    """Something that stops runs."""
    return [Finding(PROBLEM, check, what, fix)]
