"""The result of a check of `all4one doctor`."""

from dataclasses import dataclass

OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclass(frozen=True)
class Finding:
    """One line of the output."""

    level: str
    """`ok`. `warning`: runs work, but worse than possible or only on this machine. `problem`: runs will fail."""
    check: str
    """The name of the check in one or two words."""
    what: str
    """What the check found."""
    fix: str = ""
    """How to fix it."""


def ok(check: str, what: str) -> list[Finding]:
    """Return a finding without a problem."""
    return [Finding(OK, check, what)]


def warning(check: str, what: str, fix: str) -> list[Finding]:
    """Return a finding that the user should know about."""
    return [Finding(WARNING, check, what, fix)]


def problem(check: str, what: str, fix: str) -> list[Finding]:
    """Return a finding that stops runs."""
    return [Finding(PROBLEM, check, what, fix)]
