"""The pictures of a run: views, neighbors and the map of features, as the report shows them.

They need torch, so a process of its own makes them when they are asked for. The server keeps the page, but not the
memory of torch.
"""

import subprocess
import sys
import threading
from pathlib import Path

from data_pipelines.errors import UserError
from launch.local.rank_processes import module_command
from trainer.runs.run_folder import RunFolder

_KEPT = 8
"""Maximum number of pages that are kept."""


class Pictures:
    """Makes pages of pictures, one at a time, because each uses all cores. Any thread may call."""

    def __init__(self) -> None:
        self._lock, self._process_lock = threading.Lock(), threading.Lock()
        self._pages: dict[tuple[Path, int], bytes] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._is_closed = False

    def of(self, run: RunFolder) -> bytes:
        """Return the page of a run. It is made again if there is a newer checkpoint.

        Raises:
            UserError: the page cannot be made.
        """
        with self._lock:
            key = (run.path, _newest_checkpoint(run))
            if key not in self._pages:
                page = self._make(run)
                while len(self._pages) >= _KEPT:
                    self._pages.pop(next(iter(self._pages)))
                self._pages[key] = page
            return self._pages[key]

    def close(self) -> None:
        """End the process that makes a page, if there is one."""
        with self._process_lock:
            self._is_closed = True
            if self._process is not None:
                self._process.kill()
                self._process.wait()

    def _make(self, run: RunFolder) -> bytes:
        command = [*module_command("launch.serve.picture_page", str(run.path.resolve()))]
        with self._process_lock:
            if self._is_closed:
                raise UserError("the server ends")
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        page, errors = self._process.communicate()
        code = self._process.returncode
        with self._process_lock:
            self._process = None
        if code:
            if not self._is_closed:
                sys.stderr.write(errors.decode(errors="replace"))
            said = errors.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {code}"]
            raise UserError(f"the pictures cannot be made: {said[0].removeprefix('error: ')}")
        return page


def _newest_checkpoint(run: RunFolder) -> int:
    try:
        return (run.checkpoints / "latest").stat().st_mtime_ns
    except OSError:
        return 0
