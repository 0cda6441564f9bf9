"""Evaluation during training: kNN of the frozen backbones, and the accuracy of the online classifier."""

from data_pipelines.errors import UserError
from data_pipelines.loading.loaders import EvalLoader
from data_pipelines.progress import ProgressBars
from data_pipelines.shards.shard_set import ShardSet
from trainer.config.schema import Config
from trainer.distributed.process_group import Process
from trainer.evaluation.features import extract, say_what_is_missing
from trainer.evaluation.knn import knn_accuracy
from trainer.evaluation.online_classifier import online_accuracy
from trainer.methods import Method
from trainer.runs.components import AUTOCAST, IMAGES, TrainingComponents
from trainer.runs.hang_watch import HangWatch
from trainer.runs.stop_signals import StopRequest

ONLINE = "online"
"""Name of the backbone whose features the online classifier learns from."""
ONLINE_METRICS = ("online_val_top1", "online_val_top5")
"""Names of the online classifier's accuracies on the validation set."""


def metric_of(backbone: str) -> str:
    """Return the name of the metric that evaluates a backbone."""
    return f"knn_{backbone}"


def require_metric(config: Config, method: Method, num_classes: int) -> None:
    """Raise a UserError if the evaluations of a run never give the metric that `checkpoint.keep_best` names."""
    wanted = config.checkpoint.keep_best
    metrics = [*map(metric_of, method.evaluation_backbones()), *ONLINE_METRICS]
    if not wanted:
        return
    if not num_classes:
        raise UserError(
            f"checkpoint.keep_best={wanted} needs evaluations during training, and the training set has no labels",
            where=config.data.train_names,
            fix="set checkpoint.keep_best to nothing, or train on a labeled dataset",
        )
    if wanted not in metrics:
        raise UserError(
            f"checkpoint.keep_best={wanted} is no metric of this run's evaluations",
            fix=f"use {' or '.join(metrics)}",
        )


class OnlineEvaluation:
    """kNN of every backbone of the method, with the training set as the bank, and the online classifier's accuracy.

    All ranks evaluate together.

    Raises:
        UserError: evaluations are enabled and the validation set has other classes than the training set, or
            `checkpoint.keep_best` names a metric that they do not give.
    """

    def __init__(
        self,
        config: Config,
        process: Process,
        parts: TrainingComponents,
        progress: ProgressBars,
        stop: StopRequest,
        watch: HangWatch,
    ) -> None:
        self._config, self._process, self._parts = config, process, parts
        self._progress, self._stop, self._watch = progress, stop, watch
        train, validation = parts.train_set, parts.validation_set
        require_metric(config, parts.engine.method, train.num_classes)
        if config.eval.every_epochs and validation is not None and not train.num_classes:
            progress.say(
                "the training set has no labels, so there is no kNN evaluation during training. Evaluate checkpoints "
                "with `all4one eval RUN --train SHARDS`"
            )
        self._wanted = bool(config.eval.every_epochs) and validation is not None and train.num_classes > 0
        if self._wanted and validation is not None and validation.classes != train.classes:
            raise UserError(
                f"the validation set has other classes than the training set in {train.folder}",
                where=validation.folder,
                fix="set data.validation to a dataset with the same classes, or to null",
            )

    def due(self, step: int) -> bool:
        """Whether an evaluation is due at this step: at the start, every `eval.every_epochs` epochs, and at the end."""
        if not self._wanted:
            return False
        every, per_epoch = self._config.eval.every_epochs, self._parts.loader.steps_per_epoch
        return step in (0, self._parts.total_steps) or step % (every * per_epoch) == 0

    def run(self) -> dict[str, float]:
        """Return the kNN's top-1 accuracy of each backbone, as `knn_online` and `knn_momentum`, and the accuracies of
        the online classifier, `online_val_top1` and `online_val_top5`. All are those of the validation set. Every rank
        calls, and the result is empty on ranks other than 0.

        Raises:
            EvaluationInterrupted: a signal asks to stop.
        """
        train_set, validation_set = self._parts.train_set, self._parts.validation_set
        assert isinstance(train_set, ShardSet)
        assert validation_set is not None
        method, settings = self._parts.engine.method, self._config.eval
        backbones = method.evaluation_backbones()
        autocast = AUTOCAST[self._config.train.precision]
        features = []
        for shards in (train_set, validation_set):
            with self._loader(shards) as loader:
                with self._progress.task("features", len(loader)) as advance:
                    features.append(
                        extract(backbones, loader, autocast=autocast, stop=self._agreed, advance=advance)
                    )
                say_what_is_missing(loader, shards, self._progress.say)
        (bank, bank_labels, _), (queries, labels, _) = features
        found = {
            metric_of(name): knn_accuracy(
                bank[name],
                bank_labels,
                queries[name],
                labels,
                k=settings.knn_k,
                temperature=settings.knn_temperature,
                num_classes=train_set.num_classes,
                stop=self._agreed,
            ).top1
            for name in backbones
        }
        if method.classifier is not None:
            right = online_accuracy(method.classifier, queries[ONLINE], labels)
            found |= dict(zip(ONLINE_METRICS, (right.top1, right.top5), strict=True))
        return found if self._process.is_first else {}

    def _agreed(self) -> int:
        code = self._stop.agreed()
        self._watch.met()
        return code

    def _loader(self, shards: ShardSet) -> EvalLoader:
        return EvalLoader(
            shards,
            self._config.data,
            rank=self._process.rank,
            world_size=self._process.world_size,
            batch=self._config.eval.batch,
            device=self._process.device,
            dtype=IMAGES[self._config.train.precision],
            give_up=self._stop.is_set,
        )
