"""The trials as Optuna knows them. Processes on several nodes share them through one file. Loads no torch."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from data_pipelines.errors import UserError
from launch.tuning.search import Search
from launch.tuning.search_space import Dimension
from trainer.runs.run_folder import RunFolder

if TYPE_CHECKING:
    import optuna

_NUMBER = "all4one_trial"
"""Attribute with our number of a trial. Optuna counts in the order in which trials begin."""
_REDUCTION = 3
"""Of the trials that reach evaluation 1, 3, 9, … one in three goes on."""


class Trials:
    """Optuna's side of a search.

    Args:
        search: the search.
        number: number of the trial for which the sampler draws. Each draws with a seed of its own, because processes
            that begin at the same time would otherwise draw the same values.

    Raises:
        UserError: Optuna is missing.
    """

    def __init__(self, search: Search, number: int = 0) -> None:
        optuna = require_optuna()
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        seed = search.asked.seed * 100_003 + number
        sampler: Any = optuna.samplers.RandomSampler(seed=seed)
        if search.asked.sampler == "tpe":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of constant_liar
                # Trials that still run count as bad ones, so that parallel trials do not try the same place.
                sampler = optuna.samplers.TPESampler(
                    seed=seed,
                    n_startup_trials=min(10, max(2, search.asked.trials // 4)),
                    constant_liar=True,
                )
        pruner: Any = optuna.pruners.NopPruner()
        if search.asked.prune:
            pruner = optuna.pruners.SuccessiveHalvingPruner(
                min_resource=1, reduction_factor=_REDUCTION, min_early_stopping_rate=0
            )
        self._search = search
        self._study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(search.journal))),
            study_name="search",
            direction="maximize",
            load_if_exists=True,
            sampler=sampler,
            pruner=pruner,
        )

    def ask(self, number: int, space: Sequence[Dimension]) -> list[str]:
        """Return the `key=value` overrides of a trial. Asked again, they are the same."""
        frozen = self._newest(number)
        if frozen is None:
            trial = self._study.ask()
            trial.set_user_attr(_NUMBER, number)
        else:
            trial = self._trial(frozen)
        return [dimension.suggest(trial) for dimension in space]

    def should_stop(self, number: int, evaluation: int, value: float) -> bool:
        """Take in the value of a trial's evaluation, counted from 1. Returns whether the trial has fallen behind."""
        frozen = self._newest(number)
        if frozen is None or frozen.state.is_finished():  # one that has failed before is not stopped
            return False
        trial = self._trial(frozen)
        if evaluation not in frozen.intermediate_values:
            trial.report(value, evaluation)
        return bool(trial.should_prune())

    def settle(self) -> None:
        """Tell the sampler of all trials that have ended since. Killed processes could not tell it."""
        from optuna.trial import TrialState, create_trial

        for number, run in enumerate(self._search.all_trials):
            frozen = self._newest(number)
            if frozen is None:
                continue
            values = list(self._search.values(run).values())
            is_finished = run.is_finished() and bool(values)
            if frozen.state == TrialState.RUNNING:
                if is_finished:
                    self._study.tell(frozen.number, values[-1])
                elif run.pruned.exists():
                    self._study.tell(frozen.number, state=TrialState.PRUNED)
            elif frozen.state != TrialState.COMPLETE and is_finished:  # the user resumed it
                again = create_trial(
                    params=frozen.params,
                    distributions=frozen.distributions,
                    value=values[-1],
                    user_attrs={_NUMBER: number},
                )
                self._study.add_trial(again)

    def fail(self, number: int) -> None:
        """Tell the sampler that a trial has failed."""
        from optuna.trial import TrialState

        frozen = self._newest(number)
        if frozen is not None and frozen.state == TrialState.RUNNING:
            self._study.tell(frozen.number, state=TrialState.FAIL)

    def settings(self) -> dict[int, dict[str, Any]]:
        """Return the values of the trials that have begun, by the number of the trial."""
        return {one.user_attrs[_NUMBER]: one.params for one in self._known()}

    def _known(self) -> list["optuna.trial.FrozenTrial"]:
        return [one for one in self._study.get_trials(deepcopy=False) if _NUMBER in one.user_attrs]

    def _newest(self, number: int) -> "optuna.trial.FrozenTrial | None":
        found = [one for one in self._known() if one.user_attrs[_NUMBER] == number]
        return found[-1] if found else None

    def _trial(self, frozen: "optuna.trial.FrozenTrial") -> "optuna.trial.Trial":
        """Return a trial that an earlier process has begun. Optuna names it only by this private number."""
        import optuna

        return optuna.trial.Trial(self._study, frozen._trial_id)


def require_optuna() -> Any:
    """Return the module Optuna, or raise a UserError that says how to install it."""
    try:
        import optuna
    except ImportError:
        raise UserError(
            "the package optuna is missing", where="tune", fix="pip install 'all4one[tune]'"
        ) from None
    return optuna


def has_ended(run: RunFolder) -> bool:
    """Whether nothing is left to do for a trial: its run is finished, or was stopped because it fell behind."""
    return run.pruned.exists() or run.is_finished()
