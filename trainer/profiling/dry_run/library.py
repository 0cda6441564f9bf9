"""Builds the stub of the CUDA runtime, and the environment in which torch takes it for a GPU."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from platformdirs import user_cache_path

from data_pipelines.errors import UserError

SOURCE = Path(__file__).with_name("fake_cuda.c")
NAME = "libcuda.so.1"
"""The name under which torch and Triton load the driver."""


def compiler() -> str | None:
    """Return the C compiler of this machine: the one that `CC` names, or the usual one. None: there is none."""
    return shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc")


def stub_environment(rank: int, world_size: int) -> dict[str, str]:
    """Return the environment of a process in which torch sees a GPU without one, as a rank of an imagined job.

    Raises:
        UserError: the stub cannot be compiled.
    """
    job = {
        "RANK": rank,
        "LOCAL_RANK": 0,
        "WORLD_SIZE": world_size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": 0,
    }
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("CUDA_VISIBLE_DEVICES", "DS_ACCELERATOR", "LD_PRELOAD")
    }
    preloaded = [str(build()), *filter(None, [os.environ.get("LD_PRELOAD")])]
    return (
        kept
        | {name: str(value) for name, value in job.items()}
        | {
            "LD_PRELOAD": ":".join(preloaded),
            "PYTORCH_NVML_BASED_CUDA_CHECK": "0",  # NVML asks the real driver
        }
    )


def build() -> Path:
    """Compile the stub into the user's cache unless it is there. Return its path.

    Raises:
        UserError: there is no C compiler, or it does not take the source.
    """
    text = SOURCE.read_bytes()
    headers = _headers()
    built = user_cache_path("all4one") / "dry_run" / hashlib.sha256(text).hexdigest()[:16] / NAME
    if built.exists():
        return built
    found = compiler()
    if found is None:
        raise UserError(
            "a dry run needs a C compiler, to build a stand-in for the CUDA runtime",
            fix="install gcc, or name another compiler with CC",
        )
    built.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=built.parent) as folder:
        made = Path(folder) / NAME
        options = ["-shared", "-fPIC", "-O1", "-w", "-isystem", str(headers), f"-Wl,-soname,{NAME}"]
        done = subprocess.run(
            [found, *options, "-o", str(made), str(SOURCE), "-ldl"], capture_output=True, text=True
        )
        if done.returncode:
            raise UserError(
                f"the stand-in for the CUDA runtime does not compile: {done.stderr.strip().splitlines()[0]}",
                where=found,
                fix="name another C compiler with CC",
            )
        made.replace(built)  # another process may build it at the same time
    return built


def _headers() -> Path:
    """Return the folder of the CUDA headers in the package of Triton, of which torch depends on CUDA builds."""
    spec = importlib.util.find_spec("triton")
    folder = Path(spec.origin).parent / "backends/nvidia/include" if spec and spec.origin else None
    if folder is None or not (folder / "cuda_runtime_api.h").exists():
        raise UserError(
            "a dry run needs the CUDA headers that come with Triton, which is not installed",
            fix="install the CUDA build of torch, which brings it",
        )
    return folder
