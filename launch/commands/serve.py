"""`all4one serve`: show the runs of a folder live in a browser."""

from pathlib import Path
from typing import Annotated

import typer


def serve(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Folder of runs, which may lie in the folders of sweeps and studies, or the folder of one run.",
        ),
    ] = Path("runs"),
    port: Annotated[
        int,
        typer.Option(
            min=0,
            max=65535,
            help="Port of the address 127.0.0.1 on which the page is served. With 0, a free port is taken.",
        ),
    ] = 6007,
) -> None:
    """Show the runs of a folder live in a browser, until Ctrl-C.

    The page lists the runs and compares them. For each run it shows curves that grow while the run trains, goodput,
    attempts, nodes, logs, settings, pictures and the timeline of a profile. It changes nothing in the folder, and only
    this machine can reach it. The command prints the address, and the `ssh -L` command that opens the page from another
    machine.

    Example: all4one serve runs --port 0
    """
    from launch.serve.server import serve as run

    run(folder, port)
