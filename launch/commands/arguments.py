"""Arguments and options that several commands share."""

from typing import Annotated

import typer

from data_pipelines.errors import UserError

Recipe = Annotated[
    str | None, typer.Argument(metavar="CONFIG", help="Path of a recipe, or the name of a shipped recipe.")
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="RUN[@STEP|@best]|FILE",
        help="Begin with the whole state of another run, at its newest checkpoint, at STEP, or at its best one. "
        "Schedule and length may change. Without CONFIG, its settings are used. FILE is a checkpoint that the "
        "published code of All4One or solo-learn has saved.",
    ),
]
Nproc = Annotated[
    int, typer.Option(min=1, help="Processes on this machine. The global batch size does not change.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that override the recipe.")
]


def refuse_local_options(*, nproc: int | None, parallel: int | None) -> None:
    """Raise a UserError if a command that submits got an option for this machine."""
    fixes = {"--nproc": (nproc, "leave it out"), "--parallel": (parallel, "use --array-parallelism")}
    for option, (given, fix) in fixes.items():
        if given:
            raise UserError(
                f"{option} is for this machine, but --submit is for a cluster",
                fix=f"{fix}, or leave --submit out",
            )
