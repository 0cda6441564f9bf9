import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from webhook import TAG, Webhook, webhook

from data_pipelines.errors import UserError
from data_pipelines.log import LOGGER
from trainer.config.monitoring_settings import NotifySettings
from trainer.monitoring.notifications import notify, notify_in_background, require_services

RUN = Path("runs") / "narrow"


@pytest.fixture
def hook(tmp_path: Path) -> Iterator[Webhook]:
    with webhook(tmp_path) as found:
        yield found


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level(logging.WARNING)
    return caplog


def test_a_service_gets_the_title_the_words_and_where_it_happened(hook: Webhook) -> None:
    settings = NotifySettings(to=(TAG,), file=hook.file)
    require_services(settings)
    notify(settings, "finished", RUN, "All steps are done.")
    (message,) = hook.messages
    assert message.title == "narrow has finished"
    assert message.text.startswith(f"All steps are done.\n{RUN} on ")


def test_only_wanted_events_are_told(hook: Webhook) -> None:
    settings = NotifySettings(to=(TAG,), file=hook.file, on=("collapsed",))
    notify(settings, "failed", RUN, "no disk")
    notify(NotifySettings(file=hook.file), "collapsed", RUN, "nobody is told")
    notify_in_background(settings, "collapsed", RUN, "few directions")
    assert [message.title for message in hook.wait_for(1)] == ["narrow: the embeddings have nearly collapsed"]


def test_a_service_that_does_not_answer_is_a_warning(
    tmp_path: Path, warnings: pytest.LogCaptureFixture
) -> None:
    with webhook(tmp_path) as gone:
        settings = NotifySettings(to=(TAG,), file=gone.file)
    notify(settings, "failed", RUN, "no disk")
    (record,) = [r for r in warnings.records if r.name == LOGGER.name]
    assert record.getMessage().startswith(
        f"{TAG} could not be told that the run has failed: A Connection error"
    )


def test_a_file_that_vanished_is_a_warning_too(tmp_path: Path, warnings: pytest.LogCaptureFixture) -> None:
    notify(NotifySettings(to=(TAG,), file=tmp_path / "none.yml"), "failed", RUN, "no disk")
    assert "Apprise's file of services does not exist" in warnings.text


def test_before_a_run_all_that_is_missing_is_an_error_with_its_fix(
    tmp_path: Path, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_services(NotifySettings())
    with pytest.raises(UserError, match="no service has the tag 'mail'") as refused:
        require_services(NotifySettings(to=(TAG, "mail"), file=hook.file))
    assert "jsons://example.org/hook" in str(refused.value.fix)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with pytest.raises(UserError, match="Apprise's file of services does not exist") as refused:
        require_services(NotifySettings(to=(TAG,)))
    assert refused.value.where == tmp_path / "config" / "apprise" / "apprise.yml"
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(UserError, match="the package apprise is missing") as refused:
        require_services(NotifySettings(to=(TAG,), file=hook.file))
    assert refused.value.fix == "pip install 'all4one[notify]'"


def test_a_service_that_apprise_cannot_read_is_named(
    tmp_path: Path, warnings: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "own.yml"
    file.write_text(f"urls:\n  - slack://short:\n      - tag: {TAG}\n")
    with pytest.raises(UserError, match=f"no service has the tag '{TAG}'"):
        require_services(NotifySettings(to=(TAG,), file=file))
    assert str(file) in warnings.text


def test_passwords_of_urls_are_masked(hook: Webhook) -> None:
    notify(NotifySettings(to=(TAG,), file=hook.file), "failed", RUN, "s3://KEY:word@host/set cannot be read")
    assert hook.messages[0].text.startswith("s3://***@host/set cannot be read\n")
