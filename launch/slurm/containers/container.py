"""The container in which SLURM starts the processes of a job, by Apptainer or by the Pyxis plugin."""

import shlex
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from data_pipelines.errors import UserError
from launch.local.rank_processes import module_command
from launch.slurm.containers.relayed_command import QUEUED_BY
from trainer.config.slurm_settings import SlurmSettings

_PYTHON = "python3 -P -s"
"""Python of the image. `-s` hides the packages in the user's home folder, which are those of the host's Python."""
_PER_NODE = (
    'srun --overlap --mem=0 --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 '
    "--cpus-per-task=1 --no-kill --kill-on-bad-exit=0 --wait=0 --input=none"
)
"""A step with one task on each node, outside of the container, beside the step of the processes."""


@dataclass(frozen=True)
class Container:
    """How the processes of a job start inside of a container.

    Args:
        settings: settings of the job.
        folder: working directory of the processes. It is one of the mounts or inside of one.
        mounts: folders and files of the host that the processes see at the same place.
        made: folders among the mounts that each node makes first, such as a cache on a local disk.
        has_relay: whether the processes reach SLURM's commands, which an image does not have.
    """

    settings: SlurmSettings
    folder: Path
    mounts: tuple[Path, ...] = ()
    made: tuple[Path, ...] = ()
    has_relay: bool = False

    @property
    def python(self) -> str:
        """The shell words that start Python for each task."""
        if self.settings.container_runtime != "apptainer":
            return _PYTHON
        words = ["apptainer", "exec", "--pwd", str(self.folder)]
        if self.settings.gpus_per_node:
            words.append("--nv")
        for mount in self._mounts():
            words += ["--bind", mount]
        return f"{shlex.join([*words, self.settings.container])} {_PYTHON}"

    @property
    def srun_args(self) -> list[str]:
        """Arguments of srun for the step of the processes."""
        if self.settings.container_runtime != "pyxis":
            return []
        return [
            f"--container-image={self.settings.container}",
            f"--container-mounts={','.join(self._mounts())}",
            f"--container-workdir={self.folder}",
            "--container-mount-home",
        ]

    def on_first_node(self, command: str) -> str:
        """Return the shell line that runs a module (`MODULE ARGUMENT…`) once, inside of the container."""
        if self.settings.container_runtime == "apptainer":
            return f"{self.python} -m {command}"
        step = shlex.join(["srun", "--overlap", "--mem=0", "--nodes=1", "--ntasks=1", *self.srun_args])
        return f"{step} {_PYTHON} -m {command}"

    @property
    def setup(self) -> list[str]:
        """Shell lines that run before the processes start, after the user's own."""
        lines = []
        if self.made:
            lines.append(f"{_PER_NODE} mkdir -p {shlex.join(map(str, self.made))} || exit 1")
        if self.has_relay:
            log = self.folder / "slurm" / "%j_relay.log"
            relay = shlex.join(module_command("launch.slurm.containers.command_relay"))
            lines += [
                f"export {QUEUED_BY}={version('all4one')}",
                f"{_PER_NODE} --output={shlex.quote(str(log))} --open-mode=append {relay} &",
                "relay=$!",
            ]
        return lines

    @property
    def teardown(self) -> list[str]:
        """Shell lines that run after the processes."""
        return ['kill -USR1 "$relay" 2>/dev/null'] if self.has_relay else []

    def refuse_unusable(self) -> None:
        """Raise a UserError if the processes cannot start, as far as this machine can tell."""
        image = self.settings.container
        if (image.startswith("/") or image.endswith((".sif", ".sqsh"))) and not Path(image).exists():
            raise UserError(
                "there is no image for the container",
                where=Path(image),
                fix="build it as deploy/README.md says, or set slurm.container to the path of yours",
            )
        if self.settings.container_runtime == "pyxis" and not _srun_has_pyxis():
            raise UserError(
                "srun has no option --container-image, because this cluster does not have the plugin Pyxis",
                fix="set slurm.container_runtime=apptainer, or ask the administrators for Pyxis",
            )
        self._mounts()

    def _mounts(self) -> list[str]:
        """Return the mounts as `SOURCE:TARGET`, each once, those of the settings last.

        Raises:
            UserError: neither runtime can mount a path with this name.
        """
        paths = outermost(self.mounts)
        if odd := next((path for path in paths if set(str(path)) & set(",:")), None):
            raise UserError(
                "a path with a comma or a colon cannot be mounted in a container",
                where=odd,
                fix="rename it, for example by run.name=NAME",
            )
        given = [mount if ":" in mount else f"{mount}:{mount}" for mount in self.settings.container_mounts]
        return [*(f"{path}:{path}" for path in paths), *given]


def outermost(paths: Iterable[Path]) -> list[Path]:
    """Return the paths that are not inside of another one of them, in order, each once."""
    kept: list[Path] = []
    for path in sorted(set(paths)):
        if not any(path.is_relative_to(other) for other in kept):
            kept.append(path)
    return kept


def runtime_warning(settings: SlurmSettings) -> str:
    """Return a warning if Apptainer is not found here and no line of `slurm.setup` could bring it. Empty otherwise."""
    is_found = settings.setup or shutil.which("apptainer") is not None
    if not settings.container or settings.container_runtime != "apptainer" or is_found:
        return ""
    return (
        "there is no command apptainer on this machine. If the nodes have none either, the job fails. To load it on "
        "the nodes, set --setup 'module load apptainer'"
    )


def _srun_has_pyxis() -> bool:
    if shutil.which("srun") is None:
        return True  # another message says that there is no SLURM
    told = subprocess.run(
        ["srun", "--help"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    return "--container-image" in told.stdout
