"""How a run can end before its last step."""

from pathlib import Path

from data_pipelines.errors import UserError


class RunNotFinished(UserError):
    """A run ended before its last step. Its folder stays, and `resume` continues from its newest checkpoint.

    Attributes:
        folder (Path): the run's folder.
        exit_code (int): the code that `all4one train` would exit with.
    """

    def __init__(self, what: str, *, folder: Path, exit_code: int, fix: str) -> None:
        super().__init__(what, where=folder, fix=fix)
        self.folder, self.exit_code = folder, exit_code

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.folder, self.exit_code, self.fix))


class RunInterrupted(RunNotFinished):
    """A signal stopped the run, such as Ctrl-C. It saved a checkpoint first if it had begun to train."""


class RunFailed(RunNotFinished):
    """A process of the run failed or was killed."""


def _rebuild(kind: type[RunNotFinished], what: str, folder: Path, exit_code: int, fix: str) -> RunNotFinished:
    return kind(what, folder=folder, exit_code=exit_code, fix=fix)
