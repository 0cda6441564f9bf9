"""`all4one report`: write runs and studies as one HTML page."""

import json
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_pipelines.errors import UserError
from data_pipelines.files import require_writable, write_whole
from launch.report import tables
from launch.report.charts import LEGEND, Figure, colors_of, data_uri, line_chart
from launch.report.curves import ORDER, POINTS, curves, grouped, thinned
from launch.report.facts import RunFacts, read_facts, try_read_facts
from launch.report.gaps import in_one_line, missing
from launch.report.headline import key_figures
from launch.report.page import Page, Section, render
from launch.report.record_sections import record_sections, result_sections, section_of
from launch.status.run_status import runs_at
from trainer.runs.run_folder import RunFolder, runs_below
from trainer.visualization.projection import choose_way

STUDY = "study.json"
HANDFUL = 10
"""Maximum number of runs for which each run of a study has its own color. With more, all seeds share one."""
LEAST_POINTS = 60
"""Minimum number of points of each curve, for any number of runs."""
OWN = "this run"
"""Label of the curves on the page of a single run."""


def write_report(paths: Sequence[Path], out: Path | None, *, pictures: bool, how: str | None) -> Path:
    """Write the page of a run, of a study, or of several runs side by side. Return the file.

    Args:
        paths: folders of runs, of studies, or of several runs.
        out: output file. None: `report.html` in the folder, or in the current folder for several paths.
        pictures: whether to show images and compute features, which needs a backbone and the shards.
        how: projection of the feature map. See `trainer.visualization.feature_map`.

    Raises:
        UserError: a folder contains no run, a study's file cannot be read, or the page cannot be written.
    """
    study = _study(paths[0]) if len(paths) == 1 else None
    # The results of a study may come from other places, and then it has no runs here.
    folders = paths if study is None or runs_below(paths[0]) else ()
    runs = list({run.path.resolve(): run for path in folders for run in runs_at(path)}.values())
    single = study is None and len(runs) == 1
    if how is not None:
        if not (single and pictures):
            raise UserError("--map applies only to the page of one run with pictures", fix="leave --map out")
        choose_way(how)
    target = out or (paths[0] if len(paths) == 1 else Path()) / "report.html"
    require_writable(target)
    page = _of_one(read_facts(runs)[0], pictures, how) if single else _of_several(runs, study, paths)
    try:
        write_whole(target, render(page).encode())
    except OSError as error:
        raise UserError(
            f"cannot be written: {error.strerror}", where=target, fix="choose another file with --out FILE"
        ) from None
    return target


def picture_page(path: Path) -> str:
    """Return the part of a run's page that needs images or weights as a page of its own, as HTML.

    Raises:
        UserError: the folder is not a run, or its settings or records cannot be read.
    """
    from launch.report.pictures import picture_sections

    facts = read_facts([RunFolder(path)])[0]
    sections = [*picture_sections(facts, None), *_setting_sections(facts)]
    return render(Page(f"Pictures of {facts.name}", "", sections))


def _of_one(facts: RunFacts, pictures: bool, how: str | None) -> Page:
    from launch.report.pictures import picture_sections

    sections = [
        *result_sections(facts),
        *_chart_sections([(OWN, facts)]),
        *(picture_sections(facts, how) if pictures else ()),
        *record_sections(facts),
        *_setting_sections(facts),
    ]
    config = facts.config
    about = f"{config.description or 'A run'}: {config.method.name}, {config.backbone.name}"
    subtitle = f"{about}, {config.data.train_names}"
    return Page(facts.name, subtitle, sections, key_figures(facts), _footer(facts.run.path))


def _setting_sections(facts: RunFacts) -> Iterator[Section]:
    yield from section_of("Settings", tables.settings(facts), "Settings that differ from the base recipe.")
    yield from section_of(
        "Versions", tables.versions(facts), "Versions of the packages that wrote the newest checkpoint."
    )


def _of_several(runs: Sequence[RunFolder], study: dict[str, Any] | None, paths: Sequence[Path]) -> Page:
    found, unread = try_read_facts(runs)
    if runs and not found:
        raise UserError(f"none of the {len(runs)} runs can be read:\n" + "\n".join(unread), where=paths[0])
    sections = [*(_of_study(study, paths[0]) if study else ())]
    if runs:
        sections += [
            *section_of("Runs", tables.side_by_side(found)),
            *([Section("Skipped", points=unread)] if unread else ()),
            *_chart_sections(list(zip(_labels(found, study), found, strict=True))),
            *section_of("Settings that differ", tables.other_settings(found)),
        ]
    names = [path.resolve().name for path in paths]
    title = " and ".join(names) if len(names) < 4 else f"{len(found)} runs"
    subtitle = study["description"] if study else f"{len(found)} runs side by side"
    return Page(title, subtitle, sections, footer=_footer(*paths))


def _chart_sections(labeled: Sequence[tuple[str, RunFacts]]) -> Iterator[Section]:
    """Yield a section for each group of values, with a chart for each value and a curve for each run that has it.

    All charts have the same epochs, so that they can be compared. A line says what has no chart.
    """
    points = max(
        LEAST_POINTS, POINTS // max(1, len(labeled))
    )  # keeps the page small if a chart has many runs
    each = [(label, {n: thinned(c, points) for n, c in curves(facts).items()}) for label, facts in labeled]
    names = list(dict.fromkeys(name for _, found in each for name in found))
    end = max((curve.epochs[-1] for _, found in each for curve in found.values()), default=0.0)
    colors = colors_of([label for label, _ in labeled])
    legend = list(colors.items()) if len(labeled) > 1 else []
    words = "There are more runs than colors, so colors repeat." if len(colors) > LEGEND else ""
    gaps = list(missing([facts for _, facts in labeled], names))
    groups = grouped(names)
    for title in ORDER:
        charts, lines = [], [line for group, line in gaps if group == title]
        for name in groups.get(title, ()):
            drawn = [(label, found[name]) for label, found in each if name in found]
            if line := in_one_line(name, drawn):
                lines.append(line)
            else:
                charts.append(line_chart(name, drawn, colors, end))
        if charts or lines:
            shown = legend if charts else []
            yield Section(title, words=words, points=lines, legend=shown, charts=charts)


def _labels(found: Sequence[RunFacts], study: dict[str, Any] | None) -> list[str]:
    """Return the label of each run's curves: its name, without the seed if a study has many runs."""
    if study is None or len(found) <= HANDFUL:
        return [facts.name for facts in found]
    return [",".join(p for p in facts.name.split(",") if not p.startswith("seed=")) for facts in found]


def _of_study(study: dict[str, Any], folder: Path) -> Iterator[Section]:
    picture, table = folder / "study.png", study["table"]
    charts = []
    if picture.is_file():
        uri = data_uri(picture.read_bytes(), "png")
        charts = [Figure("Means and intervals", "means and intervals from the table", uri=uri)]
    yield Section(
        "Study",
        words=table["words"],
        points=[claim["words"] for claim in study["claims"]],
        table=tables.Table(table["header"], table["rows"]),
        charts=charts,
        wide=True,
    )


def _study(folder: Path) -> dict[str, Any] | None:
    if not (folder / STUDY).exists():
        return None
    try:
        found = json.loads((folder / STUDY).read_text())
        if not {"description", "table", "claims"} <= found.keys():
            raise ValueError("parts are missing")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"is not a result file of `all4one study`: {error}",
            where=folder / STUDY,
            fix="run the study's command with --show to write the file again",
        ) from None
    return dict(found)


def _footer(*paths: Path) -> str:
    return f"{', '.join(str(path) for path in paths)}: written by all4one {version('all4one')}"
