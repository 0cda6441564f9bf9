"""The output that a rank of a run has left in the run's folder, across all starts. Loads no torch."""

import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.runs.run_folder import RunFolder


def rank_logs(run: RunFolder, rank: int, jobs: Sequence[str] | None = None) -> list[Path]:
    """Return the files with a rank's output, one for each start of the run, oldest first.

    Args:
        run: the run.
        rank: the rank.
        jobs: numbers of SLURM jobs whose starts are meant. None: all starts, with and without SLURM.
    """
    folders = ["*"] if jobs is None else [f"slurm_{number}_*" for number in jobs]
    paths = [path for folder in folders for path in run.logs.glob(f"{folder}/rank_{rank}.log")]
    found = [path for path in paths if not path.parent.name.startswith("eval_")]
    return sorted(found, key=lambda path: path.parent.stat().st_mtime)


class RunOutput:
    """Prints the output of a rank in the newest start of a run, and that of later starts as it comes.

    Args:
        run: the run.
        rank: the rank.
        jobs: as for `rank_logs`.
        name: name of the run, which is printed before each line. Empty: lines are printed as they are.
    """

    def __init__(self, run: RunFolder, rank: int, jobs: Sequence[str] | None = None, name: str = "") -> None:
        self.run, self.name = run, name
        self._rank, self._jobs = rank, jobs
        self._read = {path: path.stat().st_size for path in rank_logs(run, rank, jobs)[:-1]}
        self._line = ""
        """The beginning of a line whose end is not there yet. Lines of several runs must not mix."""

    def print_new(self) -> bool:
        """Print what has come since the last call. Returns whether there was anything."""
        found = False
        paths = rank_logs(self.run, self._rank, self._jobs)
        if paths and paths[-1] not in self._read:  # a long output has its beginning in another file
            earlier = paths[-1].with_name(f"{paths[-1].name}.1")
            self._print(earlier.read_text(errors="replace") if earlier.exists() else "")
        for path in paths:
            with path.open("rb") as file:
                begin = self._read.get(path, 0)
                if begin > file.seek(0, 2):  # a long output begins anew in an empty file
                    begin = 0
                file.seek(begin)
                new = file.read()
            if new and path not in self._read:
                self.end_line()
                self.tell(f"==> {path} <==")
            self._read[path] = begin + len(new)
            self._print(new.decode(errors="replace"))
            found |= bool(new)
        sys.stdout.flush()
        return found

    def end_line(self) -> None:
        """Print a last line that has no end."""
        if self._line:
            self._print("\n")

    def tell(self, message: str) -> None:
        """Print a message about the run to standard error."""
        print(f"[{self.name}] {message}" if self.name else message, file=sys.stderr)

    def _print(self, text: str) -> None:
        if not self.name:
            sys.stdout.write(text)
            return
        *lines, self._line = (self._line + text).split("\n")
        sys.stdout.writelines(f"[{self.name}] {line}\n" for line in lines)
