"""Tells people how a run has ended."""

from typing import NamedTuple

from data_pipelines.formatting import quoted
from trainer.monitoring.notifications import notify
from trainer.runs.end_reasons import STOPPED, EndReason
from trainer.runs.records import read_ledger
from trainer.runs.run_folder import RunFolder

_FAILURES = (EndReason.ERROR, EndReason.KILLED, EndReason.STALLED, EndReason.LOST_RANK)


class LastEnd(NamedTuple):
    """How the last attempt of a run has ended."""

    reason: str
    text: str
    """What happened, for people."""


def tell_end(run: RunFolder, code: int) -> None:
    """Tell that a run has finished or failed, if its settings ask for it. Nothing is told of a run that was stopped.

    Args:
        run: the run, whose processes have ended.
        code: their exit code.
    """
    settings = run.read_config().notify
    if not settings.to:
        return
    if run.is_finished():
        notify(settings, "finished", run.path, "All steps are done.")
    elif code not in STOPPED and (end := last_end(run, code)).reason in _FAILURES:
        notify(settings, "failed", run.path, f"{end.text}\n{how_to_resume(run)}")


def last_end(run: RunFolder, code: int) -> LastEnd:
    """Return how the last attempt has ended. Without a record of it there was an error, with this exit code."""
    end = next((r for r in reversed(read_ledger(run.ledger)) if r["event"] == "end"), None)
    reason = end["reason"] if end else EndReason.ERROR
    message = end.get("message") if end else ""
    return LastEnd(reason, f"{reason}: {message}" if message else f"{reason}, exit code {code}")


def how_to_resume(run: RunFolder) -> str:
    """Return the command with which a run goes on, for people."""
    return f"Resume it with: all4one resume {quoted(run.path)}"
