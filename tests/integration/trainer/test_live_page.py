"""`all4one serve` in a real browser: with a real run, on a phone, and with keys only."""

import json
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import Command
from live_pages import DESK, PHONE, opened
from served_runs import copy_run, serving, wait_for_server, write_run
from tiny_runs import Runs

from trainer.runs.run_folder import RunFolder

EVIL = "<img src=x onerror=window.hacked=1>"
UNNAMED = """() => [...document.querySelectorAll('[tabindex="0"], input, select, button, iframe')].filter(
    e => !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length || e.title)
    ).map(e => e.outerHTML)"""
SPANS = [["step", 5.0, 5.1], ["losses", 5.0, 5.04], ["heads", 5.01, 5.03], ["backward", 5.04, 5.1]]
PROFILE = {
    "spans": SPANS,
    "parts": {"losses": 0.02, "heads": 0.02, "backward": 0.06},
    "verdict": {"words": "Bound by compute."},
    **{"step": 0.1, "world_size": 1, "global_batch": 64, "device": "CPU"},
}


@pytest.fixture(scope="module")
def folder(runs: Runs, straight: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run, two that were written, a profile, and a broken one."""
    folder = tmp_path_factory.mktemp("live") / "shown"
    shutil.copytree(runs.path(straight).path, folder / "real")
    first = write_run(folder, "first", steps=300)
    second = copy_run(first, folder / "sweep" / f"second {EVIL}")
    (second.logs / "20260101T000000_1" / "rank_0.log").write_text(
        f"{EVIL}\n<script>window.hacked = 1</script>\n"
    )
    (copy_run(first, folder / "profile").path / "profile.json").write_text(json.dumps(PROFILE))
    RunFolder(folder / "profile").metrics.unlink()
    (folder / "broken").mkdir()
    (folder / "broken" / "config.yaml").write_text("train: {")
    return folder


@pytest.fixture(scope="module")
def port(folder: Path) -> Iterator[int]:
    with serving(folder) as server:
        yield server.port


def test_the_list_tells_of_every_run_and_leads_to_each(port: int, browser: Any) -> None:
    with opened(browser, port) as page:
        page.locator(".runs tbody tr").nth(4).wait_for()
        assert page.locator(".runs tbody a").all_inner_texts() == [
            "broken",
            "first",
            "profile",
            "real",
            f"sweep/second {EVIL}",
        ]
        assert "is not valid YAML" in page.locator(".runs tr", has_text="broken").inner_text()
        page.get_by_label("Filter").fill("finished second")
        assert page.locator(".runs tbody a").all_inner_texts() == [f"sweep/second {EVIL}"]
        page.get_by_label("Filter").fill("")
        page.get_by_role("button", name="kNN").click()
        assert page.locator("th[aria-sort=ascending]").inner_text().startswith("kNN")
        for name in ("compare first", f"compare sweep/second {EVIL}"):
            page.get_by_label(name, exact=True).check()
        page.get_by_role("button", name="Compare 2 runs").click()
        page.locator("#losses .line").nth(1).wait_for()
        assert page.locator("#losses .legend li").all_inner_texts() == ["first", f"sweep/second {EVIL}"]
        page.locator("#losses .legend button").first.click()
        assert page.locator("#losses figure").first.locator(".line").count() == 1
        page.locator("#runs tbody a").first.click()
        page.locator("h1", has_text="first").wait_for()
        page.go_back()
        page.locator("h1", has_text="2 runs").wait_for()


def test_the_keyboard_reaches_runs_charts_and_sections(port: int, browser: Any) -> None:
    with opened(browser, port) as page:
        first = page.get_by_role("link", name="first", exact=True)
        first.wait_for()
        page.get_by_role("link", name="broken").focus()
        page.keyboard.press("ArrowDown")
        assert first.evaluate("element => element === document.activeElement")
        page.keyboard.press("Enter")
        page.locator("#losses .line").first.wait_for()
        plot = page.get_by_label("Loss, total over epochs")
        for _ in range(60):  # tabs of a user
            page.keyboard.press("Tab")
            if plot.evaluate("element => element === document.activeElement"):
                break
        else:
            pytest.fail("no tab reaches the chart")
        page.keyboard.press("ArrowRight")
        assert plot.locator("[aria-live]").inner_text() == "epoch 0.1, step 1: 3"
        page.keyboard.press("ArrowRight")
        assert plot.locator("[aria-live]").inner_text() == "epoch 0.2, step 2: 1.5"
        page.keyboard.press("+")
        assert page.get_by_role("button", name="Reset zoom").is_enabled()
        page.keyboard.press("Escape")
        assert page.get_by_role("button", name="Reset zoom").is_disabled()
        page.locator("#sections a", has_text="Logs").focus()
        page.keyboard.press("Enter")
        page.locator("#logs-title:focus").wait_for()
        page.keyboard.press("Tab")  # to the choice of logs


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_every_page_fits_and_has_names_for_all_that_is_drawn(
    port: int, browser: Any, size: dict[str, int], scheme: str
) -> None:
    for place, shown in (
        ("", ".runs a"),
        ("#run=real", ".line"),
        ("#run=first&run=real", ".line"),
        ("#run=profile", ".span"),
    ):
        with opened(browser, port, place, size, scheme) as page:
            page.locator(shown).first.wait_for()
            page.locator("#sections a, .runs a").first.wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], place
            ground, text = page.evaluate(
                "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
            )
            assert (brightness(ground) < 50 < 200 < brightness(text)) == (scheme == "dark")
            assert page.evaluate(UNNAMED) == []


def brightness(color: str) -> float:
    """The mean of the channels of a color such as `rgb(1, 2, 3)`."""
    channels = [int(part) for part in color[color.index("(") + 1 : -1].split(",")[:3]]
    return sum(channels) / 3


def test_what_users_write_is_shown_as_text(port: int, browser: Any) -> None:
    with opened(
        browser, port, f"#run={'sweep%2Fsecond+%3Cimg+src%3Dx+onerror%3Dwindow.hacked%3D1%3E'}"
    ) as page:
        page.locator("h1", has_text=EVIL).wait_for()
        page.locator(".log", has_text="<script>window.hacked = 1</script>").wait_for()


def test_the_timeline_of_a_profile_is_read(port: int, browser: Any) -> None:
    with opened(browser, port, "#run=profile") as page:
        timeline = page.locator(".timeline")
        timeline.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert (
            page.locator("#profile [aria-live]").inner_text()
            == "heads: 20.00 ms, from 10.00 ms, 20.0 % of the step"
        )
        tops = timeline.evaluate("e => [...e.querySelectorAll('rect')].map(r => Number(r.getAttribute('y')))")
        assert tops[0] == tops[2] < tops[1]  # heads lie inside of losses


def test_the_pictures_of_a_real_run_come_when_they_are_asked_for(port: int, browser: Any) -> None:
    with opened(browser, port, "#run=real", PHONE) as page:
        page.get_by_role("button", name="Show pictures").click()
        frame = page.frame_locator("iframe")
        frame.locator("#views img").first.wait_for(timeout=300_000)
        assert frame.locator("#neighbors img").count() > 6
        assert frame.locator("#settings td").count() > 6
        page.wait_for_timeout(300)  # the frame takes the height of its page
        assert page.evaluate("document.querySelector('iframe').clientHeight") > 1000
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_pictures_that_cannot_be_made_are_said(port: int, folder: Path, browser: Any) -> None:
    (folder / "first" / "checkpoints" / "step_00000001").mkdir(parents=True)
    (folder / "first" / "checkpoints" / "latest").write_text("step_00000001")
    (folder / "first" / "checkpoints" / "step_00000001" / "state.json").write_text(
        '{"step": 1, "saved": 1.0}'
    )
    with opened(browser, port, "#run=first") as page:
        page.get_by_role("button", name="Show pictures").click()
        page.frame_locator("iframe").get_by_text("Not shown").first.wait_for(timeout=120_000)


def test_an_empty_folder_tells_how_runs_come_and_shows_the_first_one(tmp_path: Path, browser: Any) -> None:
    run = write_run(tmp_path / "made", "one")
    (tmp_path / "runs").mkdir()
    with serving(tmp_path / "runs") as server, opened(browser, server.port) as page:
        page.get_by_text("all4one train digits_demo").wait_for()
        copy_run(run, tmp_path / "runs" / "one")
        page.get_by_role("link", name="one", exact=True).wait_for()
        assert page.get_by_text("all4one train digits_demo").is_hidden()


def test_the_folder_of_one_run_shows_that_run(folder: Path, browser: Any) -> None:
    with serving(folder / "real") as server, opened(browser, server.port) as page:
        page.locator("#losses .line").first.wait_for()
        page.locator("h1", has_text="real").wait_for()
        assert page.get_by_text("all runs").count() == 0


def test_a_server_that_ends_is_said(tmp_path: Path, browser: Any) -> None:
    write_run(tmp_path, "one")
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = Command("serve", tmp_path, "--port", port)
    wait_for_server(port, command)
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{port}/")
    page.get_by_role("link", name="one", exact=True).wait_for()
    command.send_signal(signal.SIGINT)
    page.get_by_text("The server does not answer").wait_for()
    command.communicate(60)
    assert command.returncode == 0
    page.close()
