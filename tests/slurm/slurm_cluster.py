"""A real SLURM cluster of three machines inside namespaces of this one. Needs root; changes nothing outside them.

The whole cluster lives in one namespace of processes, and that is bound to the process that starts it: however it
ends, the kernel ends munged, slurmctld, every slurmd and every job with it, and their mounts and links go too.
"""

import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import Any

import psutil

SCRIPTS = Path(__file__).resolve().parent / "cluster"
NODES = ("node1", "node2", "node3")
NET = "10.77.0"  # in a namespace of its own: no other network is disturbed
COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "ip", "unshare", "nsenter", "setpriv", "mknod")
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", "iproute2", "util-linux")
ASK_SECONDS = 0.3
"""Time between two questions to the controller. Each starts two processes, which take time from the jobs."""
USER_SIGNAL = "SlurmctldParameters=preempt_send_user_signal"


def missing() -> str | None:
    """Why there can be no cluster here, with the command that fixes it. None: there can be one."""
    if os.geteuid() != 0:
        return "a SLURM cluster in namespaces needs root"
    absent = [command for command in COMMANDS if shutil.which(command) is None]
    if absent:
        return f"{', '.join(absent)} missing: make test-packages (apt-get install {' '.join(PACKAGES)})"
    return None


class Cluster:
    """The cluster, seen from its head machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("etc", "log", "state", *(f"spool/{node}" for node in NODES)):
            (folder / name).mkdir(parents=True)
        self._write_settings(USER_SIGNAL)
        command = ["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child=SIGKILL"]
        bound = ["setpriv", "--pdeathsig", "KILL"]
        with (folder / "log" / "head.out").open("wb") as log:
            self._outer = psutil.Popen(
                [*bound, *command, "--propagation=private", SCRIPTS / "head.sh", folder, NET],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self.until(self._outer.children, 10, "no head machine")
            self.head = self._outer.children()[0].pid
            self.until(lambda: self._states() == {"idle"}, 30, "the machines do not come up")
        except BaseException:
            self.stop()
            raise

    def _write_settings(self, preemption: str) -> None:
        etc = self.folder / "etc"
        text = Template((SCRIPTS / "slurm.conf").read_text())
        (etc / "slurm.conf").write_text(text.substitute(NET=NET, FOLDER=self.folder, PREEMPTION=preemption))
        # slurmd looks for cgroups, and ends where there are none, unless a plugin is named
        (etc / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        (etc / "gres.conf").write_text("NodeName=node[1-3] Name=gpu File=/run/gpus/gpu[0-1] AutoDetect=off\n")
        addresses = [f"{NET}.1 head", *(f"{NET}.1{node[4:]} {node}" for node in NODES)]
        (etc / "hosts").write_text("\n".join(["127.0.0.1 localhost", *addresses, ""]))
        if not (key := etc / "munge.key").exists():
            key.touch(mode=0o600)
            key.write_bytes(secrets.token_bytes(1024))

    def stop(self) -> None:
        """End everything. Idempotent."""
        for process in [*self._outer.children(), self._outer] if self._outer.is_running() else []:
            process.kill()
        self._outer.wait()

    def command(self, *command: object) -> list[str]:
        """A command as it must be started to run on the head machine."""
        enter = ["nsenter", "--target", str(self.head), "--mount", "--uts", "--ipc", "--net", "--pid"]
        return [*enter, f"--wdns={Path.cwd()}", "--", *map(str, command)]

    def run(self, *command: object, check: bool = True) -> str:
        """What a command on the head machine prints."""
        done = subprocess.run(
            self.command(*command),
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def job(self, number: str) -> dict[str, str]:
        """What the controller says of a job."""
        return dict(re.findall(r"(\w+)=(\S*)", self.run("scontrol", "--oneliner", "show", "job", number)))

    def wait_for_state(self, number: str, *states: str, timeout: float = 60) -> dict[str, str]:
        """Return once a job is in one of the states."""
        return self.until(
            lambda: (job := self.job(number))["JobState"] in states and job,
            timeout,
            f"job {number} is not {states}",
            every=ASK_SECONDS,
        )

    def until(
        self, condition: Callable[[], Any], timeout: float, otherwise: str, *, every: float = 0.1
    ) -> Any:
        """The first true value of a condition, which is looked at every so many seconds."""
        deadline = time.monotonic() + timeout
        while not (value := condition()):
            assert time.monotonic() < deadline, f"{otherwise} after {timeout} s\n{self._describe()}"
            time.sleep(every)
        return value

    def cut_power(self, node: str) -> None:
        """Kill all of a machine at once; its cable first, so that nobody is told."""
        self.pull_cable(node)
        self.run("bash", "-c", f"kill -KILL $(cat /run/{node}.pid)")

    def power_on(self, node: str) -> None:
        """Start a machine again."""
        self.run(SCRIPTS / "power_on.sh", self.folder, NET, node)

    def pull_cable(self, node: str) -> None:
        """Cut a machine off: its processes live on."""
        self.run("ip", "link", "set", f"to-{node}", "down")

    def plug_in(self, node: str) -> None:
        """Undo `pull_cable`."""
        self.run("ip", "link", "set", f"to-{node}", "up")

    def on(self, node: str, *command: object) -> str:
        """What a command on one of the machines prints."""
        target = self.run("cat", f"/run/{node}.pid").strip()
        return self.run(
            "nsenter", "--target", target, "--mount", "--net", "--pid", "--", *command, check=False
        )

    @contextmanager
    def controller_hangs(self) -> Iterator[None]:
        """For a while nobody answers questions."""
        controller = self.run("pgrep", "slurmctld").strip()
        self.run("kill", "-STOP", controller)
        try:
            yield
        finally:
            self.run("kill", "-CONT", controller)

    @contextmanager
    def drained(self, node: str) -> Iterator[None]:
        """For a while a node gets no new job."""
        self.run("scontrol", "update", f"nodename={node}", "state=drain", "reason=a test")
        try:
            yield
        finally:
            self.run("scontrol", "update", f"nodename={node}", "state=resume")

    def send_user_signal_on_preemption(self, wanted: bool) -> None:
        """Set whether SLURM sends the job's own signal at the begin of the grace time."""
        self._write_settings(USER_SIGNAL if wanted else "")
        self.run("scontrol", "reconfigure")

    def heal(self) -> None:
        """Cancel all jobs and bring every machine back."""
        self.run("scancel", "--quiet", "--user=root", check=False)
        for node in NODES:
            self.plug_in(node)
        for line in self.run(
            "sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %T"
        ).splitlines():
            node, state = line.split()
            if state.startswith("down"):
                self.run("bash", "-c", f"kill -KILL $(cat /run/{node}.pid) || true")
                self.power_on(node)
        self.until(
            lambda: not self.run("squeue", "--noheader") and self._states() == {"idle"},
            60,
            "the cluster does not heal",
        )

    def _states(self) -> set[str]:
        return set(
            self.run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T", check=False).split()
        )

    def _describe(self) -> str:
        if not hasattr(self, "head"):
            return (self.folder / "log" / "head.out").read_text()
        return self.run("squeue", "--states=all", check=False) + self.run(
            "sinfo", "--Node", "--long", check=False
        )


if __name__ == "__main__":  # a cluster to try things in: slurm_cluster.py FOLDER [COMMAND]...
    cluster = Cluster(Path(sys.argv[1]))
    try:
        sys.exit(subprocess.run(cluster.command(*(sys.argv[2:] or ["bash"]))).returncode)
    finally:
        cluster.stop()
