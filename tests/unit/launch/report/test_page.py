"""The page needs nothing beside itself, and shows what comes from runs as text."""

import re

from launch.report.charts import colors_of, line_chart
from launch.report.curves import Curve
from launch.report.page import Cell, Gallery, Page, Section, Tile, TileRow, render
from launch.report.tables import Table


def test_words_of_runs_are_escaped() -> None:
    evil = '<script>alert("x")</script>'
    page = render(Page(evil, evil, [Section("S", words=evil, table=Table((evil,), [[evil]]), points=[evil])]))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 7  # the title stands twice


def test_every_address_is_inside_of_the_page() -> None:
    chart = line_chart("loss", [("one", Curve([1.0, 2.0], [3.0, 2.0]))], {"one": "#ff0000"})
    tile = Tile("data:image/jpeg;base64,AAAA", "cat")
    rows = [TileRow(tile, [Cell(tile, "same", "0.9"), Cell(None)])]
    page = render(Page("t", "s", [Section("A b", charts=[chart], galleries=[Gallery("step 3", rows)])]))
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(addresses) == 5
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
    assert first.uri != line_chart("data_wait", [("one", Curve([1.0, 2.0], [0.5, 0.3]))], colors).uri
    assert first.alt == "data_wait over epochs: one ends at 25"


def test_labels_have_colors_of_their_own() -> None:
    for count in (3, 12):
        labels = [f"run {i}" for i in range(count)]
        found = colors_of([*labels, *labels])
        assert list(found) == labels
        assert len(set(found.values())) == count
