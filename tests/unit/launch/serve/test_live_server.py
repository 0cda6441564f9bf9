"""The server: what it answers, and whom and what it refuses."""

import gzip
import json
import re
import socket
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import pytest
from served_runs import append, ask, copy_run, serving, train_record, write_run

from data_pipelines.errors import UserError
from launch.serve.server import LiveServer

SECRET = "nobody may read this"
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, and a file and a run beside the folder that must not be shown."""
    above = tmp_path_factory.mktemp("above")
    one = write_run(above / "runs", "one", f"description={EVIL}")
    copy_run(one, above / "runs" / f"two {EVIL}")
    outside = copy_run(one, above / "outside")
    (above / "secret.log").write_text(SECRET)
    (one.path / "secret.log").write_text(SECRET)  # no log of its processes
    (outside.logs / "rank_0.log").write_text(SECRET)
    (one.logs / "linked.log").symlink_to(above / "secret.log")
    (one.path / "slurm").symlink_to(above / "outside" / "logs")
    return above / "runs"


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[LiveServer]:
    with serving(folder) as found:
        yield found


def test_every_file_of_the_page_is_served_and_asks_for_no_other_place(server: LiveServer) -> None:
    page = ask(server, "/").body.decode()
    scripts = [
        path.name for path in (resources.files("launch") / "serve").iterdir() if path.name.endswith(".js")
    ]
    assert re.findall(r'(?:src|href)="([^"]+)"', page) == ["data:,", "page.css", "serve.css", "serve.js", "#"]
    assert "<style" not in page
    assert "onclick" not in page
    for name in (*scripts, "page.css", "serve.css"):
        found = ask(server, f"/{name}")
        assert (found.status, found.headers["X-Content-Type-Options"]) == (200, "nosniff")
        assert found.headers["Content-Type"].startswith(
            "text/css" if name.endswith(".css") else "text/javascript"
        )
        assert not re.findall(
            r"[a-z]+://(?!www\.w3\.org/2000/svg)", found.body.decode()
        )  # relative addresses only
        for word in ("innerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert word not in found.body.decode()


def test_the_policy_allows_no_script_but_ours(server: LiveServer) -> None:
    policy = ask(server, "/").headers["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self';" in policy
    assert "unsafe" not in policy


def test_the_list_and_the_page_of_a_run(server: LiveServer) -> None:
    found = ask(server, "/api/runs").json
    assert [run["id"] for run in found["runs"]] == ["one", f"two {EVIL}"]
    assert (found["folder"], found["single"]) == ("runs", False)
    page = ask(server, "/api/run", run=f"two {EVIL}").json
    assert page["description"] == EVIL  # as text in JSON, which the page puts into text nodes
    assert {figure["name"]: figure["value"] for figure in page["figures"]}["steps"] == "40 of 40"
    assert {section["title"] for section in page["sections"]} >= {"Nodes and time", "Attempts"}
    assert "Nodes: node[1-2]." in page["sections"][0]["points"]
    assert ["method.name", "all4one"] in page["settings"]
    both = ask(server, "/api/compare", run=["one", f"two {EVIL}"]).json
    assert [row[0] for row in both["sections"][0]["rows"]] == ["one", f"two {EVIL}"]
    assert both["sections"][1]["words"] == "All settings of these runs are the same."


def test_charts_come_in_the_groups_of_the_report(server: LiveServer) -> None:
    groups = {group["title"]: group for group in ask(server, "/api/metrics", run="one").json["groups"]}
    assert list(groups) == ["Evaluation during training", "Losses", "Health", "Optimization", "Speed"]
    loss = groups["Losses"]["charts"][0]
    assert (loss["name"], loss["label"], loss["percent"]) == ("loss", "Loss, total", False)
    assert [chart["name"] for chart in groups["Optimization"]["charts"]] == ["lr", "τ"]
    assert "Training speed (images_per_second): 100 throughout." in groups["Speed"]["lines"]
    assert groups["Speed"]["flat"] == {"images_per_second": 100.0, "data_wait": 0.01}


def test_a_page_gets_only_what_is_new(folder: Path, tmp_path: Path) -> None:
    run = copy_run(write_run(tmp_path / "made", "one"), tmp_path / "runs" / "one")
    with serving(tmp_path / "runs") as server:
        first = ask(server, "/api/metrics", run="one").json["runs"]["one"]
        assert len(first["series"]["loss"]["steps"]) == 40
        append(run, train_record(41))
        then = ask(server, "/api/metrics", run="one", cursor=first["cursor"]).json
        assert then["runs"]["one"]["series"]["loss"]["steps"] == [41]
        assert "groups" not in then
        zoomed = ask(server, "/api/metrics", run="one", low=10, high=12, axis="steps", points=50).json
        assert zoomed["runs"]["one"]["series"]["loss"]["steps"] == [9, 10, 11, 12]


def test_an_unchanged_answer_is_not_sent_again(server: LiveServer) -> None:
    first = ask(server, "/api/run", run="one", headers={"Accept-Encoding": "gzip"})
    assert first.headers["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(first.body))["id"] == "one"
    again = ask(server, "/api/run", run="one", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")


def test_a_log_comes_in_ranges_and_its_end_first(folder: Path, tmp_path: Path) -> None:
    run = copy_run(write_run(tmp_path / "made", "one"), tmp_path / "runs" / "one")
    (name,) = (path.relative_to(run.path).as_posix() for path in run.logs.rglob("*.log"))
    text = "".join(f"line {number}\n" for number in range(20_000)) + "see https://user:word@host/x\n"
    (run.path / name).write_text(text)
    with serving(tmp_path / "runs") as server:
        end = ask(server, "/api/log", run="one", file=name).json
        assert (end["size"], end["end"], end["start"]) == (len(text), len(text), len(text) - 65536)
        assert end["text"].endswith("see https://***@host/x\n")
        before = ask(server, "/api/log", run="one", file=name, start=0, end=end["start"]).json
        assert before["text"] == text[before["start"] : end["start"]]
        part = ask(server, "/api/log", run="one", file=name, start=10, end=20).json
        assert part["text"] == text[10:20]
        beyond = ask(server, "/api/log", run="one", file=name, start=10**9).json
        assert beyond["text"] == ""


def test_nothing_outside_of_the_folder_is_read(server: LiveServer) -> None:
    ways_up = (
        "..",
        "../outside",
        "%2e%2e/outside",
        "%2e%2e%2foutside",
        "..%5coutside",
        "one/../../outside",
        "....//outside",
    )
    for way in ways_up:
        for place in (
            f"/{way}/logs/rank_0.log",
            f"/api/{way}",
            f"/{way}",
            f"/api/run?run={way}",
            f"/pictures?run={way}",
        ):
            found = ask(server, place)
            assert found.status == 404, place
            assert SECRET not in found.body.decode()
    names = [log["name"] for log in ask(server, "/api/run", run="one").json["logs"]]
    assert names == ["logs/20260101T000000_1/rank_0.log"]
    for file in (
        "../../secret.log",
        "secret.log",
        "logs/linked.log",
        "slurm/rank_0.log",
        "/etc/passwd",
        "logs/../config.yaml",
    ):
        found = ask(server, "/api/log", run="one", file=file)
        assert found.status == 404, file
        assert SECRET not in found.body.decode()


@pytest.mark.parametrize(
    "place", ["/api/log", "/api/run", "/api/metrics", "/api/metrics?run=one&low=x", "/api/profile?run=one"]
)
def test_a_wrong_request_is_answered_in_words(server: LiveServer, place: str) -> None:
    found = ask(server, place)
    assert found.status == 404
    assert found.json["error"]


def test_too_many_runs_are_refused(server: LiveServer) -> None:
    found = ask(server, "/api/compare", run=[f"run{n}" for n in range(21)])
    assert "between 1 and 20 runs" in found.json["error"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_changed(server: LiveServer, method: str) -> None:
    found = ask(server, "/api/runs", method=method)
    assert (found.status, found.headers["Allow"]) == (405, "GET, HEAD")


def test_head_is_get_without_the_body(server: LiveServer) -> None:
    got, head = ask(server, "/"), ask(server, "/", method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == got.headers["Content-Length"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1:6007", "[::1]:1", "[::1]"])
def test_this_machine_may_have_any_port(server: LiveServer, host: str) -> None:
    assert ask(server, "/api/runs", headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example:6007", "localhost:x", "", "evil.example:127.0.0.1", "[::2]:80"],
)
def test_another_name_of_this_address_is_refused(server: LiveServer, host: str) -> None:
    found = ask(server, "/api/runs", headers={"Host": host})
    assert found.status == 421
    assert b"one" not in found.body.replace(b"open this page", b"")


def test_another_site_may_link_to_the_page_but_ask_for_nothing_more(server: LiveServer) -> None:
    foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert ask(server, "/", headers=foreign).status == 200
    for place in ("/api/runs", "/pictures?run=one", "/serve.js"):
        assert ask(server, place, headers=foreign).status == 403
    assert ask(server, "/api/runs", headers={"Sec-Fetch-Site": "same-origin"}).status == 200


def test_a_body_is_not_taken_for_the_next_request(server: LiveServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        body = b"GET /api/runs HTTP/1.1\r\nHost: localhost\r\n\r\n"
        head = f"GET /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        connection.sendall(head + body)
        answers = b""
        while part := connection.recv(1 << 16):
            answers += part
    assert answers.count(b"HTTP/1.1 ") == 1


def test_it_listens_on_the_loopback_address_only(server: LiveServer) -> None:
    assert server.server_address[0] == "127.0.0.1"


def test_a_broken_run_takes_nothing_down(folder: Path, tmp_path: Path) -> None:
    copy_run(write_run(tmp_path / "made", "one"), tmp_path / "runs" / "good")
    (tmp_path / "runs" / "torn").mkdir()
    (tmp_path / "runs" / "torn" / "config.yaml").write_text("train: {")
    with serving(tmp_path / "runs") as server:
        assert [run["state"] for run in ask(server, "/api/runs").json["runs"]] == [
            "finished",
            "cannot be read",
        ]
        assert "is not valid YAML" in ask(server, "/api/run", run="torn").json["error"]
        assert ask(server, "/api/run", run="good").status == 200


def test_a_folder_that_cannot_be_served_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="this folder does not exist"):
        LiveServer(tmp_path / quote("nowhere"), 0)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="this is a file"):
        LiveServer(tmp_path / "file", 0)


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UserError, match="is taken by another program"),
    ):
        LiveServer(tmp_path, taken.getsockname()[1])
