"""Real runs that tell a webhook how they end."""

from pathlib import Path

from poisoned_command import poisoned
from tiny_runs import NO_EVALUATION, Runs
from webhook import webhook


def test_a_run_tells_that_it_has_finished(runs: Runs, tmp_path: Path) -> None:
    with webhook(tmp_path) as hook:
        result = runs.train("told", *hook.settings, NO_EVALUATION, "train.max_steps=2", nproc=1)
        assert result.code == 0, result.out
        (message,) = hook.messages
    assert message.title == "told has finished"
    assert str(runs.path("told").path) in message.text


def test_a_run_tells_why_it_has_failed_and_how_it_goes_on(runs: Runs, tmp_path: Path) -> None:
    with webhook(tmp_path) as hook:
        fault = "raise ZeroDivisionError('a fault of this test')"
        code, out = poisoned(runs, tmp_path, "told_failure", fault, *hook.settings, NO_EVALUATION)
        assert code == 1, out
        (message,) = hook.messages
    assert message.title == "told_failure has failed"
    assert "a fault of this test" in message.text
    assert f"all4one resume {runs.path('told_failure').path}" in message.text


def test_a_collapse_is_told_once_while_the_run_goes_on(runs: Runs, tmp_path: Path) -> None:
    rank_of_any_network = "import trainer.contrast.embedding_health as health; health.LEAST_RANK = 2.0"
    settings = ("metrics.health_every=1", "train.max_steps=3", NO_EVALUATION)
    with webhook(tmp_path) as hook:
        code, out = poisoned(
            runs, tmp_path, "told_collapse", "pass", *hook.settings, *settings, before=rank_of_any_network
        )
        assert code == 0, out
        first, last = hook.messages
    assert first.title == "told_collapse: the embeddings have nearly collapsed"
    assert first.text.startswith("Step 1: the embeddings have nearly collapsed to few directions")
    assert last.title == "told_collapse has finished"


def test_a_service_that_does_not_exist_is_refused_before_the_run_begins(runs: Runs, tmp_path: Path) -> None:
    with webhook(tmp_path) as hook:
        result = runs.train("told_nobody", *hook.settings, "notify.to=[mail]", nproc=1)
    assert result.code == 2
    assert "no service has the tag 'mail'" in result.words
    assert not runs.path("told_nobody").path.exists()
