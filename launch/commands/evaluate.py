"""`all4one eval`: evaluate a trained backbone."""

from pathlib import Path
from typing import Annotated

import typer

from data_pipelines.errors import UserError
from launch.commands.models import BackboneName
from launch.commands.renamed_options import earlier_name, value_of
from launch.local.imports import collector_paused


def evaluate(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|FOLDER",
            show_default=False,
            help="Folder of a run or of one checkpoint, a safetensors file from `all4one export`, RUN@STEP or "
            "RUN@best, or hf://ORG/NAME on the Hugging Face hub. Or a folder of several runs, such as a sweep.",
        ),
    ],
    knn: Annotated[bool, typer.Option("--knn", help="Weighted k-nearest-neighbor classifier.")] = False,
    knn_k: Annotated[
        str | None,
        typer.Option(
            metavar="10,20,200", help="Numbers of neighbors that vote. Each number is evaluated. Default: 20."
        ),
    ] = None,
    retrieval: Annotated[
        bool, typer.Option("--retrieval", help="Image retrieval within the validation set: mAP and recall.")
    ] = False,
    linear_fast: Annotated[
        bool,
        typer.Option("--linear-fast", help="Logistic regression by L-BFGS on features computed once."),
    ] = False,
    low_shot: Annotated[
        str | None,
        typer.Option(
            metavar="1%,10%",
            help="Logistic regression on fractions of the training set, with several random subsets of each.",
        ),
    ] = None,
    low_shot_seeds: Annotated[
        int | None, typer.Option(min=2, help="Number of subsets for each fraction of --low-shot. Default: 5.")
    ] = None,
    linear: Annotated[
        bool,
        typer.Option(
            "--linear",
            help="The published linear protocol: classifiers trained by SGD on random crops and flips.",
        ),
    ] = False,
    linear_epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of --linear. Default: 100.")
    ] = None,
    linear_rates: Annotated[
        str | None,
        typer.Option(
            metavar="0.1,1,10",
            help="Learning rates of --linear for a batch of 256 images. All are trained in one pass. "
            "Default: 0.1,0.2,0.5,1,2,5,10,30.",
        ),
    ] = None,
    finetune: Annotated[
        str | None,
        typer.Option(
            metavar="1%,10%,100%",
            help="Whole network trained by SGD on fractions of the training set, with random crops and flips.",
        ),
    ] = None,
    finetune_epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of --finetune. Default: 50.")
    ] = None,
    finetune_rates: Annotated[
        str | None,
        typer.Option(
            metavar="0.01,0.1",
            help="Learning rates of --finetune for a batch of 256 images. Each needs its own training. "
            "Default: 0.01,0.03,0.1.",
        ),
    ] = None,
    robustness: Annotated[
        bool,
        typer.Option(
            "--robustness",
            help="Error of the classifier of --linear-fast on images with 15 kinds of corruption at 5 levels.",
        ),
    ] = False,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Global batch size of --linear and --finetune. Default: 256."),
    ] = None,
    backbone: Annotated[
        BackboneName | None,
        typer.Option(
            help="Evaluate only this backbone. Default: every backbone of the run.", show_default=False
        ),
    ] = None,
    nproc: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    train_set: Annotated[
        str | None,
        typer.Option("--train", help="Labeled shards to train on. Default: the training set of the run."),
    ] = None,
    validation_set: Annotated[
        str | None, typer.Option("--validation", help="Labeled shards to evaluate on.")
    ] = None,
    transfer: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="YAML file of labeled datasets. The evaluators run on each of them, and a table shows the results.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File for the results. Default: eval.json in the run's folder, or NAME.eval.json beside a checkpoint "
            "or file.",
        ),
    ] = None,
    epochs: Annotated[int | None, earlier_name("--epochs")] = None,
    learning_rates: Annotated[str | None, earlier_name("--learning-rates")] = None,
) -> None:
    """Evaluate a backbone. Without an evaluator option, --knn and --linear-fast run.

    Of a folder of runs, each finished run is evaluated, one after the other. A table compares them.

    Results of earlier evaluations of the same checkpoint and datasets are kept in eval.json. If --linear,
    --finetune or --robustness is killed, run the same command again to resume it. With --transfer, finished datasets
    are not evaluated again.

    Example: all4one eval runs/cifar10 --knn --linear --linear-epochs 50
    """
    linear_epochs = value_of(linear_epochs, epochs, was="--epochs", now="--linear-epochs")
    linear_rates = value_of(linear_rates, learning_rates, was="--learning-rates", now="--linear-rates")
    chosen = (knn, retrieval, linear_fast, low_shot is not None, linear, finetune is not None, robustness)
    none = not any(chosen)
    require_evaluator("--knn", knn or none, knn_k=knn_k)
    require_evaluator("--low-shot", low_shot is not None, low_shot_seeds=low_shot_seeds)
    require_evaluator("--linear", linear, linear_epochs=linear_epochs, linear_rates=linear_rates)
    require_evaluator(
        "--finetune", finetune is not None, finetune_epochs=finetune_epochs, finetune_rates=finetune_rates
    )
    require_evaluator("--linear or --finetune", linear or finetune is not None, batch=batch)
    if transfer is not None:
        refuse_sets_beside_transfer(train=train_set, validation=validation_set)
    ks = parse_ks(knn_k) if knn_k is not None else (20,)
    shares = parse_shares(low_shot, "--low-shot") if low_shot is not None else ()
    rates = parse_rates(linear_rates, "--linear-rates")
    tuned_shares = parse_shares(finetune, "--finetune", whole=True) if finetune is not None else ()
    tuned_rates = parse_rates(finetune_rates, "--finetune-rates")
    with collector_paused():
        from launch.evaluate.evaluation import EvalJob
        from launch.evaluate.evaluation import evaluate as evaluator
        from launch.evaluate.several_runs import evaluate_runs, holds_runs
        from launch.evaluate.transfer import evaluate_transfer
        from trainer.evaluation.evaluators import Evaluators
        from trainer.evaluation.finetune import FinetuneProtocol
        from trainer.evaluation.linear_protocol import LinearProtocol
    of_linear = given(epochs=linear_epochs, batch=batch, learning_rates=rates)
    of_finetune = given(shares=tuned_shares, epochs=finetune_epochs, batch=batch, learning_rates=tuned_rates)
    evaluators = Evaluators(
        knn=ks if knn or none else (),
        retrieval=retrieval,
        linear_fast=linear_fast or none,
        low_shot=shares,
        low_shot_seeds=low_shot_seeds or 5,
        linear=LinearProtocol.model_validate(of_linear) if linear else None,
        finetune=FinetuneProtocol.model_validate(of_finetune) if tuned_shares else None,
        robustness=robustness,
    )
    job = EvalJob(
        source=source,
        evaluators=evaluators,
        backbone=backbone,
        train=train_set,
        validation=validation_set,
        out=out,
    )
    if holds_runs(source):
        if transfer is not None:
            raise UserError(
                "--transfer evaluates one backbone, but this folder holds several runs",
                where=source,
                fix="give one of the runs",
            )
        raise typer.Exit(evaluate_runs(job, nproc))
    raise typer.Exit(evaluator(job, nproc) if transfer is None else evaluate_transfer(job, transfer, nproc))


def refuse_sets_beside_transfer(**options: str | None) -> None:
    """Raise a UserError if datasets were given by options, although the file of `--transfer` names them."""
    if names := [f"--{name}" for name, value in options.items() if value is not None]:
        raise UserError(
            "has no effect with --transfer, whose file names the datasets",
            where=", ".join(names),
            fix="leave the option out, or add the datasets to the file",
        )


def require_evaluator(evaluator: str, asked: bool, **options: object) -> None:
    """Raise a UserError if options of an evaluator were given, but the evaluator itself was not."""
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if given and not asked:
        raise UserError(
            f"has no effect without {evaluator}",
            where=", ".join(given),
            fix=f"add {evaluator}, or leave the option out",
        )


def given(**options: object) -> dict[str, object]:
    """Return the options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def parse_ks(text: str) -> tuple[int, ...]:
    """Parse numbers of neighbors such as `10,20,200`, and return them smallest first. Raises UserError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(
            f"{text!r} is not a list of whole numbers from 1",
            where="--knn-k",
            fix="write it like --knn-k 10,20,200",
        )
    return tuple(sorted({int(part) for part in parts}))


def parse_shares(text: str, option: str, *, whole: bool = False) -> tuple[float, ...]:
    """Parse percentages such as `1%,10%`, and return the fractions, smallest first. Raises UserError.

    Fractions lie in (0, 1), or in (0, 1] if `whole` is set.
    """
    shares = set()
    for part in text.split(","):
        number = part.strip().removesuffix("%")
        try:
            share = float(number) / 100 if part.strip().endswith("%") else 0.0
        except ValueError:
            share = 0.0
        if not (0 < share < 1 or (whole and share == 1)):
            most = "up to 100%" if whole else "below 100%"
            raise UserError(
                f"{part.strip()!r} is not a percentage above 0% and {most}",
                where=option,
                fix=f"write it like {option} 1%,10%",
            )
        shares.add(share)
    return tuple(sorted(shares))


def parse_rates(text: str | None, option: str) -> tuple[float, ...] | None:
    """Parse learning rates such as `0.1,1,10`, and return them smallest first; None stays None. Raises UserError."""
    if text is None:
        return None
    try:
        rates = {float(part) for part in text.split(",")}
    except ValueError:
        rates = set()
    if not rates or not all(0 < rate < float("inf") for rate in rates):
        raise UserError(
            f"{text!r} is not a list of numbers above 0", where=option, fix=f"write it like {option} 0.1,1,10"
        )
    return tuple(sorted(rates))
