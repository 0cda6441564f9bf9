"""`all4one eval`: what can be asked of a trained backbone."""

from pathlib import Path
from typing import Annotated

import typer

from data_pipelines.errors import UserError


def evaluate(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", show_default=False,
            help="Folder of a run or of one checkpoint, or a file that `export` wrote.",
        ),
    ],
    knn: Annotated[bool, typer.Option("--knn", help="Weighted nearest neighbours.")] = False,
    knn_k: Annotated[
        str, typer.Option(metavar="10,20,200", help="How many neighbours vote; each number is a judge.")
    ] = "20",
    retrieval: Annotated[
        bool, typer.Option("--retrieval", help="mAP and recall of validation images among each other.")
    ] = False,
    linear_fast: Annotated[
        bool,
        typer.Option("--linear-fast", help="Logistic regression by L-BFGS on features that are made once."),
    ] = False,
    train_set: Annotated[
        str | None,
        typer.Option("--train", help="Labelled shards to learn from; the run's own if not given."),
    ] = None,
    validation_set: Annotated[
        str | None, typer.Option("--validation", help="Labelled shards to judge on.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the results go; eval.json in the run's folder if not given.")
    ] = None,
) -> None:  # fmt: skip
    """Judge a frozen backbone; without a judge, by --knn and --linear-fast.

    What earlier evaluations of the same checkpoint and sets found stays in eval.json.
    """
    ks = parse_ks(knn_k)
    from launch.evaluate import EvalJob, evaluate_backbone
    from trainer.evaluation.judges import Judges

    none = not (knn or retrieval or linear_fast)
    judges = Judges(knn=ks if knn or none else (), retrieval=retrieval, linear_fast=linear_fast or none)
    evaluate_backbone(
        EvalJob(source=source, judges=judges, train=train_set, validation=validation_set, out=out)
    )


def parse_ks(text: str) -> tuple[int, ...]:
    """Numbers of neighbours, smallest first, from `10,20,200`. Raises UserError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(
            f"{text!r} is no list of numbers from 1", where="--knn-k", fix="give it as in --knn-k 10,20,200"
        )
    return tuple(sorted({int(part) for part in parts}))
