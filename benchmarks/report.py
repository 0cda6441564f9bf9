"""How large the report of a run is, how long it takes to write, and how long Chromium takes to open it.

    python benchmarks/report.py RUN [--repeats 5] [--json FILE]

Opening: from the request to the page's load event with every figure decoded, in a new headless browser context each
time; the median counts. Exits with 1 where the page is 5 MB or larger, or takes 2 s or longer.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MEGABYTES, SECONDS = 5.0, 2.0
DECODED = """() => Promise.all([...document.images].map(i => i.decode()))
    .then(() => document.querySelectorAll('img, svg.chart').length)"""


def opening(page: Path, repeats: int) -> tuple[list[float], int]:
    """Seconds of each opening, and the figures and tiles on the page."""
    from playwright.sync_api import sync_playwright

    seconds, images = [], 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(repeats):
            tab = browser.new_context().new_page()
            began = time.perf_counter()
            tab.goto(page.resolve().as_uri(), wait_until="load")
            images = tab.evaluate(DECODED)
            seconds.append(time.perf_counter() - began)
            tab.context.close()
        browser.close()
    return seconds, images


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    if shutil.which("chromium") is None:
        parser.error("chromium is missing: make test-packages")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        began = time.perf_counter()
        command = [sys.executable, "-m", "launch.cli", "report", str(args.run), "--out", str(page)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        writing = time.perf_counter() - began
        megabytes = page.stat().st_size / 1e6
        seconds, images = opening(page, args.repeats)
    median = statistics.median(seconds)
    epochs = json.loads((args.run / "metrics.jsonl").read_text().splitlines()[-1])["epoch"]
    print(f"{epochs:.0f} epochs, {images} figures and tiles: {megabytes:.2f} MB, written in {writing:.1f} s")
    print(
        f"opened in {median:.2f} s (of {args.repeats}: {min(seconds):.2f} to {max(seconds):.2f}), load {load:.1f}"
    )
    found = {
        "epochs": epochs,
        "images": images,
        "megabytes": megabytes,
        "writing": writing,
        "opening": seconds,
        "load": load,
    }
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return int(megabytes >= MEGABYTES or median >= SECONDS)


if __name__ == "__main__":
    sys.exit(main())
