"""Prints the pictures of a run, and what else needs torch, as an HTML page. `all4one serve` shows it in a frame."""

import sys
from pathlib import Path

from data_pipelines.errors import UserError
from launch.local.imports import collector_paused
from launch.messages import print_error


def main() -> int:
    """Print the page of the run in the folder that is the only argument."""
    with collector_paused():
        from launch.report.sections import picture_page
    # What libraries print must not come into the page.
    out, sys.stdout = sys.stdout, sys.stderr
    try:
        page = picture_page(Path(sys.argv[1]))
    except UserError as error:
        print_error(error)
        return 2
    out.buffer.write(page.encode())
    out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
