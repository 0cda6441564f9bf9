"""Checks of `all4one doctor`: the packages that train, decode and communicate work on this machine."""

import io
import os
import re
import sys
import time
from importlib.metadata import PackageNotFoundError, distributions, requires, version
from pathlib import Path
from typing import Any

from data_pipelines.devices import choose_device
from data_pipelines.errors import UserError
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
    """Compare the installed versions with the required ones."""
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
    """Return the name of the installed DALI package, which depends on the CUDA version. Empty: DALI is not
    installed."""
    names = (d.metadata["Name"] for d in distributions())
    return next((name for name in names if name and name.startswith("nvidia-dali-cuda")), "")


def devices(_: Path) -> list[Finding]:
    """Check the GPUs and their interconnect."""
    return [*_cuda(), *_nccl()]


def _cuda() -> list[Finding]:
    """Check the driver against torch's build, the devices and their free memory."""
    import torch

    if torch.version.cuda is None:
        return warning("CUDA", f"torch {torch.__version__} is built without CUDA", INSTALL)
    try:
        device = choose_device()
    except UserError as error:
        return problem("CUDA", error.what, error.fix or INSTALL)
    if device.type == "cpu":
        if not DRIVER.exists():
            return ok("CUDA", f"no GPU here: runs use CPUs (torch is built for CUDA {torch.version.cuda})")
        found = re.search(r"(\d+(?:\.\d+)+)", DRIVER.read_text())
        return problem(
            "CUDA",
            f"torch, built for CUDA {torch.version.cuda}, cannot use driver {found[1] if found else '?'}",
            "install a newer driver, or torch for an older CUDA; in a job, request GPUs (--gpus-per-node)",
        )
    findings = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = f"GPU {index}: {torch.cuda.get_device_name(index)}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
        torch.ones(8, device=index).sum().item()  # raises if the build has no kernels for this device
        findings += (
            ok("CUDA", name)
            if free > 0.9 * total
            else warning("CUDA", name, "run `nvidia-smi` to see which processes use it")
        )
    return findings


def _nccl() -> list[Finding]:
    """Check the NCCL version, and the network interfaces that it may use."""
    import psutil
    import torch

    up = psutil.net_if_stats()
    interfaces = [name for name in psutil.net_if_addrs() if name != "lo" and name in up and up[name].isup]
    asked = [name.lstrip("^=") for name in os.environ.get("NCCL_SOCKET_IFNAME", "").split(",") if name]
    if asked and not any(have.startswith(name) for have in interfaces for name in asked):
        return problem(
            "NCCL",
            f"NCCL_SOCKET_IFNAME names {', '.join(asked)}, but this machine has {', '.join(interfaces) or 'none'}",
            "unset the variable, or name one of these interfaces",
        )
    if not torch.distributed.is_nccl_available():
        return warning("NCCL", "torch is built without NCCL, so several GPUs cannot train together", INSTALL)
    fabric = ", ".join(sorted(p.name for p in Path("/sys/class/infiniband").glob("*"))) or "none"
    said = ".".join(map(str, torch.cuda.nccl.version()))
    return ok("NCCL", f"{said}; interfaces {', '.join(interfaces) or 'none'}; InfiniBand {fabric}")


def deepspeed(_: Path) -> list[Finding]:
    """Initialize DeepSpeed in a process group of one, as a rank does, and check that it compiles nothing."""
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
            f"each node will compile {', '.join(wanted)} before its first step",
            "install g++ and ninja on all nodes, and set TORCH_EXTENSIONS_DIR to a writable folder",
        )
    return ok("DeepSpeed", f"initialized in {took:.0f} s without compiling anything")


def dali(_: Path) -> list[Finding]:
    """Decode a JPEG with DALI on the CPU, and on the GPU if there is one."""
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
            return problem(
                "DALI",
                f"it decodes to shape {shape} instead of a square of {SIDE} pixels on {device}",
                INSTALL,
            )
    where = " and the GPU" if len(decoders) > 1 else ""
    return ok("DALI", f"decodes a JPEG on the CPU{where}")


def jpegs(_: Path) -> list[Finding]:
    """Check that libjpeg-turbo and OpenCV decode a JPEG to the same pixels."""
    import cv2
    import numpy as np
    import simplejpeg

    jpeg = _jpeg()
    turbo = simplejpeg.decode_jpeg(jpeg, "RGB")  # [SIDE, SIDE, 3]
    opened = np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR))[:, :, ::-1]
    apart = int(np.abs(turbo.astype(int) - opened.astype(int)).max())
    if apart > 4:
        return problem(
            "JPEGs",
            f"simplejpeg and OpenCV decode the same JPEG with a difference of {apart} of 255 levels",
            INSTALL,
        )
    return ok("JPEGs", "simplejpeg and OpenCV decode a JPEG to the same pixels")


SIDE = 32


def _jpeg() -> bytes:
    """Return a JPEG of a gray ramp of SIDE x SIDE pixels."""
    import numpy as np
    from PIL import Image

    ramp = np.linspace(0, 255, SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE)
    file = io.BytesIO()
    Image.fromarray(ramp).convert("RGB").save(file, "JPEG", quality=95)
    return file.getvalue()
