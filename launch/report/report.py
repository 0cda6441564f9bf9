"""`all4one report`: what runs and studies did, as one page."""

import json
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_pipelines.errors import UserError
from data_pipelines.files import write_whole
from launch.report import tables
from launch.report.charts import LEGEND, Figure, colours_of, data_uri, line_chart
from launch.report.curves import Curve, curves, grouped
from launch.report.facts import RunFacts, read_facts
from launch.report.page import Page, Section, render
from launch.status import runs_at

STUDY = "study.json"
OWN = "this run"
"""Label of the curves of a page that shows one run."""


def write_report(paths: Sequence[Path], out: Path | None, *, pictures: bool, how: str | None) -> Path:
    """Write the page of a run, of a study, or of several runs side by side. Returns the file.

    Args:
        paths: folders of runs, of studies, or that hold runs.
        out: the file; None: `report.html` in the folder, or here where there are several.
        pictures: whether images are shown and features are made, which takes a backbone and the shards.
        how: of the map of features; see `trainer.looks.feature_map`.

    Raises:
        UserError: no run in a folder, a study's file that cannot be read, or a page that cannot be written.
    """
    runs = [run for path in paths for run in runs_at(path)]
    found = read_facts(list({run.path.resolve(): run for run in runs}.values()))
    study = _study(paths[0]) if len(paths) == 1 else None
    page = _of_several(found, study, paths) if study or len(found) > 1 else _of_one(found[0], pictures, how)
    target = out or (paths[0] if len(paths) == 1 else Path()) / "report.html"
    try:
        write_whole(target, render(page).encode())
    except OSError as error:
        raise UserError(
            f"cannot be written: {error.strerror}", where=target, fix="choose another place with --out FILE"
        ) from None
    return target


def _of_one(facts: RunFacts, pictures: bool, how: str | None) -> Page:
    from launch.report.pictures import picture_sections

    sections = [
        *_table("Results", tables.results(facts)),
        *_chart_sections([(OWN, facts)]),
        *(picture_sections(facts, how) if pictures else ()),
        *_table("Attempts", tables.attempts(facts)),
        *_table("Settings", tables.settings(facts), "Those that are not the base recipe's."),
        *_table("Versions", tables.versions(facts), "Of what wrote the newest checkpoint."),
    ]
    config = facts.config
    subtitle = (
        f"{config.description or 'A run'}: {config.method.name}, {config.backbone.name}, {config.data.train}"
    )
    return Page(facts.name, subtitle, sections, tables.key_figures(facts), _footer(facts.run.path))


def _of_several(found: Sequence[RunFacts], study: dict[str, Any] | None, paths: Sequence[Path]) -> Page:
    labelled = list(zip(_labels(found, study), found, strict=True))
    sections = [
        *(_of_study(study, paths[0]) if study else ()),
        *_table("Runs", tables.side_by_side(found)),
        *_chart_sections(labelled),
        *_table("Settings that differ", tables.other_settings(found)),
    ]
    title = " and ".join(path.resolve().name for path in paths)
    subtitle = study["description"] if study else f"{len(found)} runs side by side"
    return Page(title, subtitle, sections, footer=_footer(*paths))


def _chart_sections(labelled: Sequence[tuple[str, RunFacts]]) -> Iterator[Section]:
    """A section for each group of values, with a chart for each value and a curve for each run that has it."""
    each = [(label, curves(facts)) for label, facts in labelled]
    colours = colours_of([label for label, _ in labelled])
    several = list(colours.items()) if len(colours) > 1 else []
    for title, names in grouped(list(dict.fromkeys(n for _, found in each for n in found))).items():
        charts = [_chart(name, each, colours) for name in names]
        yield Section(title, legend=several, charts=charts)


def _chart(name: str, each: Iterable[tuple[str, dict[str, Curve]]], colours: dict[str, str]) -> Figure:
    return line_chart(name, [(label, found[name]) for label, found in each if name in found], colours)


def _labels(found: Sequence[RunFacts], study: dict[str, Any] | None) -> list[str]:
    """Of each run's curves: its name; without the seed where a study has more runs than a legend holds."""
    if study is None or len(found) <= LEGEND // 2:
        return [facts.name for facts in found]
    return [",".join(p for p in facts.name.split(",") if not p.startswith("seed=")) for facts in found]


def _of_study(study: dict[str, Any], folder: Path) -> Iterator[Section]:
    axes = (
        list(study["rows"][0])[: -len(("score", "runs", "best_other", "difference"))] if study["rows"] else []
    )
    rows = [
        [
            *(row[axis] for axis in axes), f"{row['score']['samples'] if row['score'] else 0}/{row['runs']}",
            _estimate(row["score"]),
            f"{_estimate(row['difference'], '+')} to {row['best_other']}" if row["difference"] else "",
        ]
        for row in study["rows"]
    ]  # fmt: skip
    header = [
        *axes,
        "runs",
        f"{study['judge']} of the {study['backbone']} backbone, %",
        "difference to the best other",
    ]
    picture = folder / "study.png"
    charts = []
    if picture.is_file():
        charts = [
            Figure("Means and intervals", data_uri(picture.read_bytes(), "png"), "the table as a picture")
        ]
    yield Section(
        "Study", words="Means with intervals of 95 % over seeds; differences are paired by seed.",
        points=[claim["words"] for claim in study["claims"]], table=tables.Table(header, rows), charts=charts,
        wide=True,
    )  # fmt: skip


def _estimate(found: dict[str, Any] | None, sign: str = "") -> str:
    if found is None:
        return ""
    half = f" ± {found['half']:.2f}" if found["half"] is not None else ""
    return f"{found['mean']:{sign}.2f}{half}"


def _study(folder: Path) -> dict[str, Any] | None:
    if not (folder / STUDY).exists():
        return None
    try:
        found = json.loads((folder / STUDY).read_text())
        return {key: found[key] for key in ("description", "judge", "backbone", "rows", "claims")}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            "is not what `all4one study` writes",
            where=folder / STUDY,
            fix="give the study's command with --show",
        ) from None


def _table(title: str, table: tables.Table, words: str = "") -> list[Section]:
    return [Section(title, words=words, table=table)] if table.rows else []


def _footer(*paths: Path) -> str:
    return f"{', '.join(str(path) for path in paths)}: written by all4one {version('all4one')}"
