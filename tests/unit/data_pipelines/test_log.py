import logging
import re

import pytest

from data_pipelines.log import LOGGER


@pytest.mark.parametrize(("rank", "shown"), [(None, ":"), ("3", " rank 3:")])
def test_a_line_has_time_level_and_rank(
    rank: str | None, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    LOGGER.warning("the controller is %s", "away")
    line = capsys.readouterr().err
    assert re.fullmatch(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d WARNING{shown} the controller is away\n", line)
    assert not logging.getLogger().handlers or not LOGGER.propagate
