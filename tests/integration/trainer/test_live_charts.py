"""The charts of `all4one serve` in a real browser: they grow, and they are read, zoomed and smoothed."""

from pathlib import Path
from typing import Any

from live_pages import forwarded, newest, opened, settled_plot
from served_runs import append, copy_run, serving, train_record, write_run
from tiny_runs import Runs


def test_the_curves_of_a_real_run_grow_while_it_trains(runs: Runs, browser: Any) -> None:
    command = runs.start(
        *runs.arguments("growing", "train.max_steps=80", "eval.every_epochs=0"), "--nproc", 1
    )
    try:
        runs.wait_for_step("growing", 2, command)
        with serving(runs.folder) as server, opened(browser, server.port) as page:
            row = page.locator(".runs tr", has=page.get_by_role("link", name="growing", exact=True))
            row.locator(".state.running").wait_for()
            row.get_by_role("link").click()
            chart = page.locator("#losses figure").first
            chart.locator(".line").first.wait_for()
            before = newest(chart)
            page.get_by_text(before, exact=True).first.wait_for(
                state="hidden"
            )  # the words of this chart change
            assert newest(chart) != before
            out, _ = command.communicate(300)
            assert command.returncode == 0, out
            page.locator(".state.finished").wait_for(timeout=60_000)
            recorded = runs.metrics("growing")[-1]
            page.wait_for_timeout(100)
            chart.get_by_text(
                f"at epoch {recorded['epoch']:.4g}".rstrip("0").rstrip("."), exact=False
            ).wait_for()
            assert "step 80" in page.locator(".log").inner_text()
    finally:
        if command.poll() is None:
            runs.kill(command)


def test_a_chart_is_read_zoomed_and_smoothed_through_a_forwarded_port(tmp_path: Path, browser: Any) -> None:
    copy_run(write_run(tmp_path, "first", steps=300), tmp_path / "second")
    address = "#run=first&run=second"
    with (
        serving(tmp_path) as server,
        forwarded(server.port) as near,
        opened(browser, near, address) as page,
    ):
        plot, box = settled_plot(page)
        page.mouse.move(box["x"] + 150, box["y"] + 60)
        assert "first: " in plot.locator(".readout").inner_text()
        whole = plot.locator("svg text").all_text_contents()
        page.mouse.down()
        page.mouse.move(box["x"] + 250, box["y"] + 60, steps=3)
        page.mouse.up()
        reset = page.get_by_role("button", name="Reset zoom")
        assert reset.is_enabled()
        assert plot.locator("svg text").all_text_contents() != whole
        reset.click()
        page.mouse.move(0, 0)
        page.locator("#losses .plot").first.get_by_text("30", exact=True).wait_for()
        assert plot.locator("svg text").all_text_contents() == whole
        page.get_by_label("Smoothing").fill("0.9")
        assert plot.locator(".line.faint").count() == 2
        page.get_by_label("Logarithmic").check()
        assert "logarithmic" in plot.locator("svg text").all_text_contents()
        page.get_by_label("Axis").select_option("steps")
        page.locator("#losses .plot").first.get_by_text("300", exact=True).wait_for()


def test_a_chart_comes_when_a_value_changes_and_goes_back_when_a_run_resumes(
    tmp_path: Path, browser: Any
) -> None:
    run = write_run(tmp_path, "one")
    with serving(tmp_path) as server, opened(browser, server.port, "#run=one") as page:
        flat = page.get_by_text("Training speed (images_per_second): 100 throughout.")
        flat.wait_for()
        loss = page.locator("#losses figure").first
        loss.get_by_text("0.075 at epoch 4, first 3").wait_for()
        with page.expect_response(lambda answer: "cursor=" in answer.url):
            append(run, train_record(41))
        loss.get_by_text("at epoch 4.1, first 3").wait_for()
        assert flat.is_visible()  # it has come again, and is still the same
        append(run, train_record(42, loss=9.0) | {"time": {"images_per_second": 50.0}})
        page.locator("#speed .line").wait_for()
        loss.get_by_text("9 at epoch 4.2, first 3").wait_for()
        assert flat.count() == 0
        append(run, train_record(20, loss=5.0))
        loss.get_by_text("5 at epoch 2, first 3").wait_for()


def test_a_zoom_fetches_finer_points(tmp_path: Path, browser: Any) -> None:
    run = write_run(tmp_path, "long", steps=30_000)
    append(run, train_record(30_001))
    with serving(tmp_path) as server, opened(browser, server.port, "#run=long") as page:
        _, box = settled_plot(page)
        with page.expect_response(lambda answer: "low=" in answer.url) as fine:
            page.mouse.move(box["x"] + 200, box["y"] + 60)
            page.mouse.down()
            page.mouse.move(box["x"] + 210, box["y"] + 60, steps=3)
            page.mouse.up()
        series = fine.value.json()["runs"]["long"]["series"]["loss"]["steps"]
        assert series == list(range(series[0], series[-1] + 1))  # every step
        assert 100 < len(series) <= 2000
