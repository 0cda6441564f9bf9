"""Checks of `all4one doctor`: what trains, decodes and talks between processes really does so here."""

import io
import os
import re
import socket
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, distributions, requires, version
from pathlib import Path
from typing import Any

from launch.doctor.findings import Finding, ok, problem, warning

SHOWN = (
    "torch",
    "torchvision",
    "deepspeed",
    "webdataset",
    "nvidia-dali-cuda130",
    "submitit",
    "opencv-python-headless",
)
DRIVER = Path("/proc/driver/nvidia/version")
INSTALL = "install the project again, in its environment: pip install --editable ."


def packages(_: Path) -> list[Finding]:
    """Versions against those that the project asks for."""
    from packaging.requirements import Requirement

    wanted = [Requirement(text) for text in requires("all4one") or []]
    missing, other = [], []
    for one in wanted:
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        try:
            if not one.specifier.contains(version(one.name), prereleases=True):
                other.append(f"{one.name} {version(one.name)} instead of {one.specifier}")
        except PackageNotFoundError:
            if not (one.name.startswith("nvidia-dali") and _dali()):
                missing.append(one.name)
    if missing:
        return problem("packages", f"missing: {', '.join(missing)}", INSTALL)
    if other:
        return warning("packages", "; ".join(other), INSTALL)
    names = [_dali() if name.startswith("nvidia-dali") else name for name in SHOWN]
    shown = ", ".join(f"{name} {version(name)}" for name in names)
    return ok("packages", f"Python {sys.version.split()[0]}, {shown}")


def _dali() -> str:
    """The package of DALI that is installed, for one CUDA or another; empty: none is."""
    names = (d.metadata["Name"] for d in distributions())
    return next((name for name in names if name and name.startswith("nvidia-dali-cuda")), "")


def devices(_: Path) -> list[Finding]:
    """GPUs, and what connects them."""
    return [*_cuda(), *_nccl()]


def _cuda() -> list[Finding]:
    """Driver against torch's build, devices and their free memory."""
    import torch

    if torch.version.cuda is None:
        return warning("CUDA", f"torch {torch.__version__} is built without it", INSTALL)
    if not torch.cuda.is_available():
        if not DRIVER.exists():
            return ok("CUDA", f"no GPU here: runs use CPUs (torch is built for CUDA {torch.version.cuda})")
        found = re.search(r"(\d+(?:\.\d+)+)", DRIVER.read_text())
        return problem(
            "CUDA",
            f"torch, built for CUDA {torch.version.cuda}, cannot use driver {found[1] if found else '?'}",
            "a newer driver, or torch built for an older CUDA; in a job, ask for GPUs (--gpus-per-node)",
        )
    findings = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = f"GPU {index}: {torch.cuda.get_device_name(index)}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
        torch.ones(8, device=index).sum().item()  # raises where the build has no kernels for this device
        findings += (
            ok("CUDA", name)
            if free > 0.9 * total
            else warning("CUDA", name, "`nvidia-smi` shows who else uses it")
        )
    return findings


def _nccl() -> list[Finding]:
    """Its version, and the interfaces that it may use."""
    import psutil
    import torch

    up = psutil.net_if_stats()
    interfaces = [name for name in psutil.net_if_addrs() if name != "lo" and name in up and up[name].isup]
    asked = [name.lstrip("^=") for name in os.environ.get("NCCL_SOCKET_IFNAME", "").split(",") if name]
    if asked and not any(have.startswith(name) for have in interfaces for name in asked):
        return problem(
            "NCCL",
            f"NCCL_SOCKET_IFNAME names {', '.join(asked)}, but there is {', '.join(interfaces) or 'none'}",
            "unset it, or name one of these",
        )
    if not torch.distributed.is_nccl_available():
        return warning("NCCL", "torch is built without it: GPUs cannot train together", INSTALL)
    fabric = ", ".join(sorted(p.name for p in Path("/sys/class/infiniband").glob("*"))) or "none"
    said = ".".join(map(str, torch.cuda.nccl.version()))
    return ok("NCCL", f"{said}; interfaces {', '.join(interfaces) or 'none'}; InfiniBand {fabric}")


def gloo(_: Path) -> list[Finding]:
    """Two processes add a number each, as ranks of a job do."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", ADD],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | common | {"RANK": str(rank), "ALL4ONE_PARENT": str(os.getpid())},
        )
        for rank in range(2)
    ]
    errors = [rank.communicate()[1] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        said = "".join(errors).strip().splitlines()[-1:]
        return problem(
            "gloo",
            f"two processes on this machine cannot add numbers: {''.join(said)}",
            "a firewall or GLOO_SOCKET_IFNAME may be in the way: processes must reach each other by TCP",
        )
    return ok("gloo", "two processes of this machine have added their numbers")


ADD = """
from launch.local.worker import end_with_parent
end_with_parent()
import torch, torch.distributed as dist
dist.init_process_group("gloo")
number = torch.tensor([dist.get_rank() + 1.0])
dist.all_reduce(number)
assert number.item() == 3.0, number
dist.destroy_process_group()
"""


def deepspeed(_: Path) -> list[Finding]:
    """It joins a group of one as a rank does, and compiles nothing meanwhile."""
    import torch.utils.cpp_extension

    wanted = list[str]()

    def refuse(name: str, *_: Any, **__: Any) -> None:
        wanted.append(name)
        raise RuntimeError(f"{name} would be compiled")

    torch.utils.cpp_extension.load = refuse
    os.environ |= {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }
    began = time.monotonic()
    from trainer.distributed.process_group import initialize

    try:
        initialize()
    except RuntimeError:
        if not wanted:
            raise
    took = time.monotonic() - began
    if wanted:
        return warning(
            "DeepSpeed",
            f"each machine will compile {', '.join(wanted)} before its first step",
            "have g++ and ninja on all machines, and TORCH_EXTENSIONS_DIR on a disk that can be written",
        )
    return ok("DeepSpeed", f"loaded and joined a group in {took:.0f} s; nothing had to be compiled")


def dali(_: Path) -> list[Finding]:
    """It decodes a JPEG on the CPU, and on the GPU where there is one."""
    import numpy as np
    from nvidia.dali import fn, pipeline_def

    decoders = ["cpu", *(["mixed"] if DRIVER.exists() else [])]
    jpeg = np.frombuffer(_jpeg(), np.uint8)  # [bytes]
    for device in decoders:

        @pipeline_def(batch_size=1, num_threads=1, device_id=None if device == "cpu" else 0)
        def decoded(device: str = device) -> Any:
            return fn.decoders.image(fn.external_source(source=lambda: [jpeg]), device=device)

        pipeline = decoded()
        pipeline.build()
        (images,) = pipeline.run()
        shape = images.as_cpu().at(0).shape
        if shape != (SIDE, SIDE, 3):
            return problem("DALI", f"it makes {shape} of a square of {SIDE} on {device}", INSTALL)
    where = " and the GPU" if len(decoders) > 1 else ""
    return ok("DALI", f"decodes a JPEG on the CPU{where}")


def jpegs(_: Path) -> list[Finding]:
    """libjpeg-turbo and OpenCV see the same image in a JPEG."""
    import cv2
    import numpy as np
    import simplejpeg

    jpeg = _jpeg()
    turbo = simplejpeg.decode_jpeg(jpeg, "RGB")  # [SIDE, SIDE, 3]
    opened = np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR))[:, :, ::-1]
    apart = int(np.abs(turbo.astype(int) - opened.astype(int)).max())
    if apart > 4:
        return problem("JPEGs", f"simplejpeg and OpenCV decode one JPEG {apart} of 255 levels apart", INSTALL)
    return ok("JPEGs", "simplejpeg and OpenCV decode the same image")


SIDE = 32


def _jpeg() -> bytes:
    """A gray ramp of SIDE x SIDE pixels."""
    import numpy as np
    from PIL import Image

    ramp = np.linspace(0, 255, SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE)
    file = io.BytesIO()
    Image.fromarray(ramp).convert("RGB").save(file, "JPEG", quality=95)
    return file.getvalue()
