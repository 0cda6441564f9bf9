"""How long a browser takes to paint the pages of `all4one serve`, and what the server costs.

    python benchmarks/serve.py [--runs 200] [--records 100000] [--repeats 5] [--json FILE]

Makes a folder of runs with many records each, starts the command, and opens the list and the pages of runs in headless
Chromium. Each opening has a new browser context and, for a run, one that the server has not read before. The first
contentful paint is that of the browser's own performance entries. The page marks when all rows and all curves are
drawn. Medians count. Exits with 1 where a first paint takes more than 1 s.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from launch.local.rank_processes import module_command
from trainer.config.schema import load_config
from trainer.runs.run_folder import create_run

MOST_S = 1.0
PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
MARK = "name => performance.getEntriesByName(name, 'mark')[0]?.startTime"
ROW, CURVE = ".runs a", "svg.chart .line"


def make_folder(folder: Path, runs: int, records: int) -> None:
    """Write runs of the demo's recipe. Their metrics are hard links to one file, which the server cannot know."""
    config = load_config("digits_demo", [f"run.folder={folder}", "run.name=run000"])
    first = create_run(config, "run000")
    first.note("start", attempt=1, world_size=1, host="node", last_recorded=None)
    first.note("ready", attempt=1, step=0, total_steps=records, replayed=0)
    first.note("end", attempt=1, reason="finished", step=records)
    with first.metrics.open("w") as file:
        for step in range(1, records + 1):
            values = dict.fromkeys(("loss", "neighbor", "centroid", "feature", "z_std", "lr"), 1 / step)
            more = {f"value_{number}": (step * 7919 % 1009) / 1009 for number in range(8)}
            times = {"images_per_second": 400 + step % 7, "data_wait": 0.01, "bad_samples": 0}
            record = {"kind": "train", "step": step, "epoch": step / 100, **values, **more, "time": times}
            file.write(json.dumps(record) + "\n")
            if step % 1000 == 0:
                file.write(
                    json.dumps({"kind": "eval", "step": step, "epoch": step / 100, "knn_online": 0.5}) + "\n"
                )
    for number in range(1, runs):
        copy = folder / f"run{number:03}"
        shutil.copytree(first.path, copy, ignore=shutil.ignore_patterns("metrics.jsonl"))
        os.link(first.metrics, copy / "metrics.jsonl")


def started(folder: Path) -> tuple[subprocess.Popen[str], str, float]:
    """Start the command. Return it, the address of its page, and the seconds until it printed that."""
    began = time.perf_counter()
    process = subprocess.Popen(
        module_command("launch.cli", "serve", str(folder), "--port", "0"), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://\S+", line)
    assert found is not None, line
    return process, found[0], time.perf_counter() - began


def opened(browser: Any, address: str, shown: str, mark: str) -> tuple[float, float]:
    """Return the seconds to the first contentful paint of a page, and to the mark when all of it is drawn."""
    tab = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    tab.goto(address, wait_until="load")
    tab.locator(shown).first.wait_for(timeout=60_000)
    while (drawn := tab.evaluate(MARK, mark)) is None:
        time.sleep(0.01)
    paint = tab.evaluate(PAINT)
    tab.context.close()
    return paint / 1000, drawn / 1000


def memory(pid: int) -> float:
    """Return the peak memory of a process in MB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    if shutil.which("chromium") is None:
        parser.error("chromium is missing: make test-packages")
    from playwright.sync_api import sync_playwright

    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        make_folder(Path(name), args.runs, args.records)
        megabytes = (Path(name) / "run000" / "metrics.jsonl").stat().st_size / 1e6
        process, address, start = started(Path(name))
        at_start = memory(process.pid)
        try:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            pages = {"list": [opened(browser, address, ROW, "list") for _ in range(args.repeats)]}
            runs = [f"run{number:03}" for number in range(args.repeats)]
            pages["a run, first time"] = [
                opened(browser, f"{address}#run={run}", CURVE, "curves") for run in runs
            ]
            pages["a run, again"] = [
                opened(browser, f"{address}#run={runs[-1]}", CURVE, "curves") for _ in runs
            ]
            browser.close()
            after = memory(process.pid)
        finally:
            process.terminate()
            process.wait()
    medians = {
        name: [statistics.median(part) for part in zip(*times, strict=True)] for name, times in pages.items()
    }
    print(f"{args.runs} runs of {args.records:,} records ({megabytes:.0f} MB each), load {load:.1f}")
    print(f"start {start:.2f} s; memory {at_start:.0f} MB, after {args.repeats} runs {after:.0f} MB")
    for name, (paint, drawn) in medians.items():
        print(f"{name}: first contentful paint {paint:.2f} s, all drawn {drawn:.2f} s")
    found = {"start": start, "megabytes": [at_start, after], "pages": pages, "load": load}
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return int(max(paint for paint, _ in medians.values()) > MOST_S)


if __name__ == "__main__":
    sys.exit(main())
