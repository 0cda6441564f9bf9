"""`all4one report` on real runs, opened in a real browser: nothing fails, nothing is fetched, every figure is drawn."""

import io
import re
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

from commands import run
from PIL import Image
from tiny_runs import Runs

from launch.figures import drawn_into
from launch.report.charts import data_uri
from launch.studies.plan import Study
from launch.studies.study_report import report as write_study_report
from launch.studies.study_runs import StudyRuns
from trainer.runs.records import read_records
from trainer.runs.run_folder import RunFolder

PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
PAPER = {"width": 718, "height": 1046}  # A4 less margins of 1 cm, at 96 dots an inch
NARROW_TABLES = """() => [...document.querySelectorAll('.scroll, td')].filter(
    e => e.clientWidth && e.scrollWidth > e.clientWidth + 1).map(e => e.textContent)"""
DRAWN = """() => [...document.querySelectorAll('svg.chart')].map(s => ({
    drawn: s.querySelectorAll('path').length > 3 && s.getBoundingClientRect().width > 100,
    label: s.getAttribute('aria-label')}))"""
LOADED = """() => [...document.images].map(i => ({
    drawn: i.complete && i.naturalWidth > 1 && i.getBoundingClientRect().width > 1, alt: i.alt}))"""


def open_page(browser: Any, path: Path, size: dict[str, int]) -> tuple[Any, list[str]]:
    """A page that is loaded, and what went wrong meanwhile: messages, errors, requests."""
    page, wrong = browser.new_page(viewport=size), []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    address = path.resolve().as_uri()
    page.on("request", lambda request: wrong.append(request.url))
    page.goto(address, wait_until="load")
    return page, [what for what in wrong if what != address and not what.startswith("data:")]


def require_whole(browser: Any, path: Path) -> Any:
    """A page that is in order on a phone, on a desk and in print; the one of the desk."""
    assert path.stat().st_size < 5e6
    for size in (PHONE, DESK):
        page, wrong = open_page(browser, path, size)
        assert wrong == []
        images = page.evaluate(LOADED)
        assert images or page.evaluate(DRAWN)
        assert [i["alt"] for i in images if not i["drawn"] or not i["alt"]] == []
        assert [s["label"] for s in page.evaluate(DRAWN) if not s["drawn"] or not s["label"]] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        if size == PHONE:
            assert page.evaluate(NARROW_TABLES) == []
        targets = page.evaluate(
            "[...document.querySelectorAll('nav a')].map(a => document.querySelector(a.hash) !== null)"
        )
        assert targets
        assert all(targets)
    page.emulate_media(media="print")
    page.set_viewport_size(PAPER)
    assert page.evaluate("document.documentElement.scrollWidth") <= PAPER["width"]
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.emulate_media(media="screen")
    return page


def test_the_figure_of_a_study_is_drawn_on_the_page_in_dark_mode(browser: Any) -> None:
    target = io.BytesIO()
    with drawn_into(target, "png") as (axes,):
        axes.plot([0, 1], [0, 1], color="black", lw=9)
    style = (resources.files("launch.report") / "page.css").read_text()
    image = f'<img src="{data_uri(target.getvalue(), "png")}">'
    page = browser.new_page(color_scheme="dark")
    page.set_content(f'<style>{style}</style><section id="study"><figure>{image}</figure></section>')
    with Image.open(io.BytesIO(page.locator("img").screenshot())) as shown:
        colors = {color: count for count, color in shown.convert("RGB").getcolors(1 << 24)}
    ground = max(colors, key=lambda color: colors[color])
    assert ground == (0x14, 0x18, 0x1D)  # --paper
    assert max(map(min, colors)) > 240  # lines and letters are light


def require_dark(browser: Any, path: Path) -> None:
    """Text and axes are light on a dark page where the reader prefers that, and print stays light."""
    page = browser.new_page(viewport=PHONE, color_scheme="dark")
    page.goto(path.resolve().as_uri())
    ground = "getComputedStyle(document.body).backgroundColor"
    text = "getComputedStyle(document.querySelector('svg.chart text')).fill"
    assert brightness(page.evaluate(ground)) < 50
    assert brightness(page.evaluate(text)) > 200
    page.emulate_media(media="print", color_scheme="dark")
    assert brightness(page.evaluate(ground)) == 255
    assert brightness(page.evaluate(text)) < 50
    page.close()


def brightness(color: str) -> float:
    """The mean of the channels of a color such as `rgb(1, 2, 3)`."""
    channels = [int(part) for part in re.findall(r"\d+", color)[:3]]
    return sum(channels) / 3


def titles(page: Any, selector: str) -> list[str]:
    return [words.strip() for words in page.locator(selector).all_text_contents()]


def test_the_page_of_a_run_shows_all_that_is_on_record(
    runs: Runs, straight: str, browser: Any, tmp_path: Path
) -> None:
    folder, out = RunFolder(tmp_path / "straight"), tmp_path / "page.html"
    # Another test may have evaluated the run, and then the page opens with these results.
    shutil.copytree(runs.path(straight).path, folder.path, ignore=shutil.ignore_patterns("eval.json"))
    done = run("report", folder.path, "--out", out, "--map", "pca")
    assert done.code == 0, done.out
    page = require_whole(browser, out)
    assert titles(page, "h2") == [
        "Evaluation during training",
        "Losses",
        "Health",
        "Optimization",
        "Speed",
        "Map of features",
        "Neighbors",
        "Views",
        "Goodput",
        "Ranks",
        "Attempts",
        "Settings",
        "Versions",
    ]
    recorded = {name for record in read_records(folder.metrics) for name in record | record.get("time", {})}
    # Values that never change are lines instead of charts.
    lines = {words.partition("(")[2].partition(")")[0] for words in titles(page, ".points li")}
    charts = titles(page, "figcaption strong")
    assert recorded - {"kind", "step", "epoch", "time"} == set(titles(page, "figcaption code")) | lines
    assert "skipped_steps" in lines
    assert "EMA momentum τ" in charts
    assert page.locator("figure:has(svg.chart) small").count() == page.locator("svg.chart").count()
    assert charts[-1].startswith("PCA of 296 features of the momentum backbone, step 14")
    assert "finished" in titles(page, ".cards dd")
    assert titles(page, ".cards dd.when")[0].endswith("step 14")
    require_dark(browser, out)
    shown = {
        row[0]: row[2]
        for row in page.evaluate(
            "[...document.querySelectorAll('#settings tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
        )
    }
    assert shown["method.queue.size"] == "200"
    assert page.locator("#neighbors h3").count() == 3  # checkpoints that are kept
    assert page.locator("#neighbors .tiles").count() == 3 * 6
    assert page.locator("#neighbors img.same, #neighbors img.other").count() > 3 * 6
    assert page.locator("#views .tiles").count() == 6
    page.locator("nav a", has_text="Views").click()
    assert page.url.endswith("#views")


def test_runs_stand_side_by_side(runs: Runs, straight: str, browser: Any, tmp_path: Path) -> None:
    out = tmp_path / "both.html"
    trained = run("train", *barlow_twins(runs))
    assert trained.code == 0, trained.out
    done = run("report", runs.path(straight).path, runs.path("twins").path, "--out", out)
    assert done.code == 0, done.out
    page = require_whole(browser, out)
    assert titles(page, "#runs tbody td:first-child") == ["straight", "twins"]
    assert titles(page, "#losses .legend li") == ["straight", "twins"]
    assert "method.name" in titles(page, "#settings-that-differ tbody td:first-child")
    assert page.locator(".tiles").count() == 0


def barlow_twins(runs: Runs) -> list[str]:
    changed = {
        "method.name": "barlow_twins",
        "run.name": "twins",
        "train.max_steps": 3,
        "optim.warmup_epochs": 0,
    }
    others = (
        "method.predictor_hidden",
        "method.queue",
        "method.feature_scope",
        "method.transformer",
        *changed,
    )
    kept = [setting for setting in runs.common if not setting.startswith(others)]
    return [*kept, *(f"{key}={value}" for key, value in changed.items())]


def test_a_study_comes_with_its_table_and_its_claims(
    runs: Runs, straight: str, browser: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    claim = {"better": "all4one", "than": "barlow_twins"}
    grid = {"method": {"all4one": {}, "barlow_twins": {"method": {"name": "barlow_twins"}}}}
    asked = Study.model_validate(
        {
            "description": "<a study>",
            "recipe": "digits_demo",
            "compare": "method",
            "seeds": [0],
            "grid": grid,
            "claims": [claim],
        }
    )
    of_study = StudyRuns(asked, folder, [])
    # The run has other settings than the study, so it comes after the check of the settings.
    shutil.copytree(runs.path(straight).path, folder / "method=all4one,seed=0")
    write_study_report(of_study)
    done = run("report", folder)
    assert done.code == 0, done.out
    page = require_whole(browser, folder / "report.html")
    assert titles(page, "header p") == ["<a study>"]
    knn = [
        record["knn_online"] for record in read_records(runs.path(straight).metrics) if "knn_online" in record
    ]
    assert titles(page, "#study tbody td") == [
        "all4one",
        "1/1",
        f"{100 * knn[-1]:.2f}",
        "",
        "barlow_twins",
        "0/1",
        "",
        "",
    ]
    assert titles(page, "#study > ul > li")[0].startswith("all4one is better than barlow_twins: not decided")
    alone = tmp_path / "results_alone"  # its runs are in other places
    alone.mkdir()
    for name in ("study.json", "study.png"):
        shutil.copy(folder / name, alone)
    done = run("report", alone)
    assert done.code == 0, done.out
    page = require_whole(browser, alone / "report.html")
    assert titles(page, "section > h2") == ["Study"]
    (folder / "study.json").write_text("{}")
    broken = run("report", folder)
    assert broken.code == 2
    assert "is not a result file of `all4one study`" in broken.words


def test_what_cannot_be_shown_is_said(runs: Runs, straight: str, browser: Any, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(runs.path(straight).path, folder)
    shutil.rmtree(folder / "checkpoints")
    done = run("report", folder)
    assert done.code == 0, done.out
    page = require_whole(browser, folder / "report.html")
    assert "has no valid checkpoint yet" in page.locator("#map-of-features").inner_text()
    nowhere = run("report", tmp_path / "nowhere")
    assert nowhere.code == 2
    assert "there is no run here" in nowhere.words
    in_vain = run("report", folder, "--no-pictures", "--map", "pca")
    assert in_vain.code == 2
    assert "--map applies only to the page of one run with pictures" in in_vain.words
    (tmp_path / "file").write_text("")
    refused = run("report", folder, "--no-pictures", "--out", tmp_path / "file" / "page.html")
    assert refused.code == 2
    assert "its folder cannot be created" in refused.words


def test_a_run_that_cannot_be_read_is_named_and_keeps_no_other_from_the_page(
    runs: Runs, straight: str, browser: Any, tmp_path: Path
) -> None:
    shutil.copytree(runs.path(straight).path, tmp_path / "good")
    for name, config in (("newer", "train: {epochz: 3}"), ("torn", "train: {")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(config)
    done = run("report", tmp_path)
    assert done.code == 0, done.out
    page = require_whole(browser, tmp_path / "report.html")
    assert titles(page, "#runs tbody td:first-child") == ["good"]
    assert [words.partition(":")[0] for words in titles(page, "#skipped li")] == ["newer", "torn"]
    shutil.rmtree(tmp_path / "good")
    nothing = run("report", tmp_path)
    assert nothing.code == 2
    assert "none of the 2 runs can be read" in nothing.words
    assert "Traceback" not in nothing.out
