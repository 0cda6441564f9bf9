"""The page needs nothing beside itself, and shows what comes from runs as text."""

import re
from pathlib import Path

import launch.report.page as page_module
from launch.report.charts import colors_of, line_chart
from launch.report.curves import Curve
from launch.report.headline import KeyFigure
from launch.report.page import Cell, Gallery, Page, Section, Tile, TileRow, render
from launch.report.tables import Table


def test_words_of_runs_are_escaped() -> None:
    evil = '<script>alert("x")</script>'
    page = render(Page(evil, evil, [Section("S", words=evil, table=Table((evil,), [[evil]]), points=[evil])]))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 8  # the title stands twice, and the header also in the cell


def test_every_address_is_inside_of_the_page() -> None:
    chart = line_chart("loss", [("one", Curve([1.0, 2.0], [3.0, 2.0]))], {"one": "#ff0000"})
    tile = Tile("data:image/jpeg;base64,AAAA", "cat")
    rows = [TileRow(tile, [Cell(tile, "same", "0.9"), Cell(None)])]
    page = render(Page("t", "s", [Section("A b", charts=[chart], galleries=[Gallery("step 3", rows)])]))
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(addresses) >= 4
    assert all(a.startswith(("data:", "#")) for a in addresses)
    assert 'href="#a-b"' in page
    assert 'id="a-b"' in page
    assert not re.search(r"https?://(?!www\.w3\.org)", page)


def test_parts_that_are_empty_leave_no_trace() -> None:
    page = render(Page("t", "s", [Section("Only words", words="w")]))
    body = page[page.index("<body>") :]
    assert not re.search("<table|<img|<figure|<ul|<dl|<h3", body)


def test_the_same_curve_gives_the_same_bytes_and_another_gives_others() -> None:
    curve, colors = Curve([1.0, 2.0], [0.5, 0.25]), {"one": "#ff0000"}
    first = line_chart("data_wait", [("one", curve)], colors)
    assert first == line_chart("data_wait", [("one", curve)], colors)
    assert first.svg != line_chart("data_wait", [("one", Curve([1.0, 2.0], [0.5, 0.3]))], colors).svg
    assert first.alt == "Time spent waiting for data over epochs: one ends at 25.00 %"


def test_labels_have_colors_of_their_own() -> None:
    for count in (3, 12):
        labels = [f"run {i}" for i in range(count)]
        found = colors_of([*labels, *labels])
        assert list(found) == labels
        assert len(set(found.values())) == count


def test_charts_of_a_page_share_no_ids_and_no_style_sheet() -> None:
    curve = Curve([1.0, 2.0], [3.0, 2.0])
    charts = [line_chart(name, [("one", curve)], {"one": "#ff0000"}) for name in ("loss", "lr")]
    page = render(Page("t", "s", [Section("A", charts=charts)]))
    body = page[page.index("<body>") :]
    ids = re.findall(r' id="([^"]*)"', body)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]*)"', body)) <= set(ids)
    assert not re.search(r"<style|<metadata|<\?xml|<!DOCTYPE svg", body)


def test_axes_take_the_color_of_the_text_and_lines_can_be_seen_on_light_and_dark_pages() -> None:
    chart = line_chart("loss", [("one", Curve([1.0, 2.0], [3.0, 2.0]))], {"one": "#1f77b4"})
    colors = set(re.findall(r": (#[0-9a-f]{6})", chart.svg))
    assert colors == {"#1f77b4"}
    assert "currentColor" in chart.svg
    style = (Path(page_module.__file__).parent / "page.css").read_text()
    [paper] = re.findall(r"prefers-color-scheme: dark.*?--paper: (#\w{6})", style, re.DOTALL)
    for color in colors_of([str(i) for i in range(10)]).values():
        assert contrast(color, paper) >= 3  # WCAG 2.2, 1.4.11 for graphics


def contrast(one: str, other: str) -> float:
    """The contrast of WCAG 2.2."""
    weak, strong = sorted(map(luminance, (one, other)))
    return (strong + 0.05) / (weak + 0.05)


def luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_cells_name_their_column_for_narrow_screens() -> None:
    page = render(Page("t", "s", [Section("A", table=Table(("run", "kNN", "steps"), [["one", "5 %", "3"]]))]))
    assert re.findall(r'data-label="(\w+)">([^<]*)<', page) == [
        ("run", "one"),
        ("kNN", "5 %"),
        ("steps", "3"),
    ]


def test_charts_and_key_figures_are_explained() -> None:
    chart = line_chart("z_rank", [("one", Curve([1.0, 2.0], [3.0, 2.0]))], {"one": "#ff0000"})
    figure = KeyFigure("kNN", "5.00 %", "step 0: untrained backbone", "Higher is better.")
    page = render(Page("t", "s", [Section("A", charts=[chart])], [figure]))
    for words in ("Effective rank of embeddings", "z_rank", "1 is a collapse", *figure):
        assert words in page
