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
        str | None,
        typer.Option(
            metavar="10,20,200", help="How many neighbours vote; each number is a judge. 20 if not given."
        ),
    ] = None,
    retrieval: Annotated[
        bool, typer.Option("--retrieval", help="mAP and recall of validation images among each other.")
    ] = False,
    linear_fast: Annotated[
        bool,
        typer.Option("--linear-fast", help="Logistic regression by L-BFGS on features that are made once."),
    ] = False,
    low_shot: Annotated[
        str | None,
        typer.Option(
            metavar="1%,10%", help="Logistic regression on shares of the training set, several subsets of each."
        ),
    ] = None,
    low_shot_seeds: Annotated[
        int | None, typer.Option(min=2, help="Subsets of each share; 5 if not given.")
    ] = None,
    linear: Annotated[
        bool,
        typer.Option(
            "--linear", help="The published protocol: linear classifiers trained by SGD on crops and flips."
        ),
    ] = False,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of --linear; 100 if not given.")] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Images of a step of --linear, of all processes; 256 if not given."),
    ] = None,
    learning_rates: Annotated[
        str | None,
        typer.Option(
            metavar="0.1,1,10",
            help="Of --linear, for each 256 images of the batch: all are tried in one pass. "
            "0.1,0.2,0.5,1,2,5,10,30 if not given.",
        ),
    ] = None,
    nproc: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
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

    What earlier evaluations of the same checkpoint and sets found stays in eval.json. --linear goes on where it was
    killed when the same command is given again.
    """
    none = not (knn or retrieval or linear_fast or low_shot is not None or linear)
    require_judge("--knn", knn or none, knn_k=knn_k)
    require_judge("--low-shot", low_shot is not None, low_shot_seeds=low_shot_seeds)
    require_judge("--linear", linear, epochs=epochs, batch=batch, learning_rates=learning_rates)
    ks = parse_ks(knn_k) if knn_k is not None else (20,)
    shares = parse_shares(low_shot) if low_shot is not None else ()
    rates = parse_rates(learning_rates) if learning_rates is not None else None
    from launch.evaluate import EvalJob
    from launch.evaluate import evaluate as judge
    from trainer.evaluation.judges import Judges
    from trainer.evaluation.protocol import LinearProtocol

    given = {"epochs": epochs, "batch": batch, "learning_rates": rates}
    protocol = LinearProtocol.model_validate({k: v for k, v in given.items() if v is not None})
    judges = Judges(
        knn=ks if knn or none else (), retrieval=retrieval, linear_fast=linear_fast or none, low_shot=shares,
        low_shot_seeds=low_shot_seeds or 5, linear=protocol if linear else None,
    )  # fmt: skip
    job = EvalJob(source=source, judges=judges, train=train_set, validation=validation_set, out=out)
    raise typer.Exit(judge(job, nproc))


def require_judge(judge: str, asked: bool, **options: object) -> None:
    """Raise a UserError where options of a judge, other than None, were given and it is not asked."""
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if given and not asked:
        raise UserError(
            f"has no effect without {judge}", where=", ".join(given),
            fix=f"add {judge}, or leave it out",
        )  # fmt: skip


def parse_ks(text: str) -> tuple[int, ...]:
    """Numbers of neighbours, smallest first, from `10,20,200`. Raises UserError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(
            f"{text!r} is no list of numbers from 1", where="--knn-k", fix="give it as in --knn-k 10,20,200"
        )
    return tuple(sorted({int(part) for part in parts}))


def parse_shares(text: str) -> tuple[float, ...]:
    """Shares in (0, 1), smallest first, from `1%,10%`. Raises UserError."""
    shares = set()
    for part in text.split(","):
        number = part.strip().removesuffix("%")
        try:
            share = float(number) / 100 if part.strip().endswith("%") else 0.0
        except ValueError:
            share = 0.0
        if not 0 < share < 1:
            raise UserError(
                f"{part.strip()!r} is no share of a set: a number of per cent above 0 and below 100",
                where="--low-shot",
                fix="give it as in --low-shot 1%,10%",
            )
        shares.add(share)
    return tuple(sorted(shares))


def parse_rates(text: str) -> tuple[float, ...]:
    """Learning rates, smallest first, from `0.1,1,10`. Raises UserError."""
    try:
        rates = {float(part) for part in text.split(",")}
    except ValueError:
        rates = set()
    if not rates or not all(0 < rate < float("inf") for rate in rates):
        raise UserError(
            f"{text!r} is no list of numbers above 0", where="--learning-rates",
            fix="give it as in --learning-rates 0.1,1,10",
        )  # fmt: skip
    return tuple(sorted(rates))
