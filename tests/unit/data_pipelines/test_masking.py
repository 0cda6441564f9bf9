import json
import logging
import pickle
from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from data_pipelines.log import LOGGER
from data_pipelines.masking import masked, masked_values
from trainer.config.schema import dump, load_config
from trainer.monitoring.metrics import open_metrics
from trainer.runs.records import append_record
from trainer.runs.run_folder import RunFolder

SECRET = "hunter2"
URLS = [
    f"https://ada:{SECRET}@host.org/train",
    f"s3://{SECRET}@bucket/train",
    f"https://host.org/train/a.tar?X-Amz-Credential={SECRET}&X-Amz-Signature={SECRET}",
    f"https://host.org/a?sv=1&sig={SECRET}%3D#part",
    f"pipe:curl https://ada:{SECRET}@host.org/{{0..3}}.tar",
    f"https://host.org/a?token={SECRET}",
    f"https://ada:x@{SECRET}@host.org/a@b.tar",
    f"https://ada:{SECRET}@{SECRET}@@host.org",
    f"wasbs://ada:{SECRET}@host.org/train",
    f"https://host.org/a?b=1&client_secret={SECRET}&pwd={SECRET}&session_token={SECRET}",
    f"https://host.org/a?AWSAccessKeyId={SECRET}&Signature={SECRET}&Expires={SECRET}",
    f"https://host.org/a?AWSSessionToken={SECRET}&aws_secret_access_key={SECRET}&response=1",
    f"https://host.org/a?GoogleAccessId={SECRET}&X-Goog-Credential={SECRET}&X-Goog-Signature={SECRET}",
    f"https://host.org/a?sp={SECRET}&st={SECRET}&se={SECRET}&spr={SECRET}&sv={SECRET}&sr={SECRET}&sig={SECRET}",
    f"https://host.org/a?skoid={SECRET}&sktid={SECRET}&skt={SECRET}&ske={SECRET}&sks={SECRET}&skv={SECRET}",
    f"https://host.org/a?OSSAccessKeyId={SECRET}&security-token={SECRET}&x-oss-signature={SECRET}",
    f"https://host.org/a?api-key={SECRET}&apikey={SECRET}&passwd={SECRET}&sessionid={SECRET}",
    f"https://host.org/a?b=1&amp;access_token={SECRET};refresh_token={SECRET}",
    f"https://host.org/a#id_token={SECRET}",
]


@pytest.mark.parametrize("url", URLS)
def test_no_secret_of_a_url_is_shown(url: str) -> None:
    said = f"the shard {url} is missing, and '{url}' too"
    assert SECRET not in masked(said)
    assert "host.org" in masked(said) or "bucket" in masked(said)
    assert masked(masked(said)) == masked(said)
    assert SECRET not in json.dumps(masked_values({"a": [url, {"b": url}], "c": (url, 1, None)}))


@pytest.mark.parametrize(
    "text",
    [
        "https://host.org/a?list=1",
        "https://host.org/a?max_tokens=1&monkey=2&page=3&version=4",
        "abfs://train@account.dfs.core.windows.net/a",
        "ABFSS://train@account.dfs.core.windows.net/a",
        "wasb://train@account.blob.core.windows.net and wasbs://b@c/d",
        "https://host.org, mail ada@host.org",
        "s3://bucket/a@2x.jpg",
        "mail ada@host.org",
        "a:b@c",
        "/data/train?key=1",
        "x://y",
    ],
)
def test_everything_else_stays(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize("url", URLS)
def test_errors_log_lines_records_and_trackers_show_none(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = UserError(f"{url} is missing", where=url, fix=f"check {url}")
    assert SECRET not in str(error)
    assert SECRET not in str(pickle.loads(pickle.dumps(error)))
    LOGGER.warning("%s is slow", url)
    assert SECRET not in capsys.readouterr().err
    run = RunFolder(tmp_path)
    append_record(run.ledger, {"event": "end", "message": f"{url} is gone"})
    config = load_config("digits_demo", [f"data.train={json.dumps(url)}", "metrics.tensorboard=true"])
    writer = open_metrics(run, config, 0)
    writer.write("train", 1, {"loss": 1.0}, epoch=0.1)
    writer.close()
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path
    assert SECRET in str(dump(config))
    assert logging.getLogger("all4one") is LOGGER
