"""Messages to people about a run, by the services of Apprise's file: mail, chat, webhooks.

Runs name services by their tags only, so passwords stay in that file.
"""

import logging
import socket
import threading
from pathlib import Path
from typing import Any

from platformdirs import user_config_path

from data_pipelines.errors import UserError, first_line
from data_pipelines.log import LOGGER
from data_pipelines.masking import masked
from trainer.config.monitoring_settings import NotifyEvent, NotifySettings

_TITLES: dict[NotifyEvent, str] = {
    "finished": "{run} has finished",
    "failed": "{run} has failed",
    "collapsed": "{run}: the embeddings have nearly collapsed",
    "requeues_used_up": "{run} is not requeued again",
}

_EXAMPLE = (
    "for example with these lines, of a webhook:\nurls:\n  - jsons://example.org/hook:\n      - tag: {tag}"
)


def require_services(settings: NotifySettings) -> None:
    """Raise a UserError if somebody is to be told and cannot be: no Apprise, no file, or no service of that tag."""
    if settings.to:
        services = _services(settings)
        for tag in settings.to:
            if not any(True for _ in services.find(tag)):
                raise UserError(
                    f"notify.to: no service has the tag {tag!r}",
                    where=_file(settings),
                    fix="add one, " + _EXAMPLE.format(tag=tag),
                )


def notify(settings: NotifySettings, event: NotifyEvent, run: Path, text: str) -> None:
    """Tell people of an event, if they are to be told. It takes some seconds. A failure is logged, and never raised.

    Args:
        settings: who is told of what.
        event: the event.
        run: folder of the run.
        text: what happened, and what to do.
    """
    if not settings.to or event not in settings.on:
        return
    try:
        title, where = _TITLES[event].format(run=run.name), f"{run} on {socket.gethostname()}"
        reason = _send(settings, title, masked(f"{text}\n{where}"))
    except Exception as error:  # no service may end a run
        reason = first_line(error)
    if reason:
        LOGGER.warning("%s could not be told that the run has %s: %s", ", ".join(settings.to), event, reason)


def notify_in_background(settings: NotifySettings, event: NotifyEvent, run: Path, text: str) -> None:
    """Do the same in a thread, so that no step waits for it."""
    if settings.to and event in settings.on:
        threading.Thread(
            target=notify, args=(settings, event, run, text), name="notification", daemon=True
        ).start()


def _send(settings: NotifySettings, title: str, text: str) -> str:
    """Send a message to all services. Returns why it failed, or nothing."""
    import apprise

    with apprise.LogCapture(level=logging.WARNING, fmt="%(message)s") as said:
        sent = _services(settings).notify(title=title, body=text, tag=list(settings.to))
        return "" if sent else "; ".join(said.getvalue().splitlines()) or "no service took the message"


def _services(settings: NotifySettings) -> Any:
    """Return the services of Apprise's file."""
    try:
        import apprise
    except ImportError:
        raise UserError(
            "the package apprise is missing", where="notify.to", fix="pip install 'all4one[notify]'"
        ) from None
    file = _file(settings)
    if not file.is_file():
        raise UserError(
            "Apprise's file of services does not exist",
            where=file,
            fix="name another one with notify.file, or write it, " + _EXAMPLE.format(tag=settings.to[0]),
        )
    config = apprise.AppriseConfig()
    with apprise.LogCapture(level=logging.WARNING, fmt="%(message)s") as said:
        config.add(str(file))
        services = apprise.Apprise()
        services.add(config)
        for line in said.getvalue().splitlines():
            LOGGER.warning("%s: %s", file, line)
    return services


def _file(settings: NotifySettings) -> Path:
    return settings.file or user_config_path("apprise") / "apprise.yml"
