"""Peak speeds and memory of common GPUs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """A GPU. Speeds are the vendor's peaks for dense matrices."""

    name: str
    memory: float
    """Bytes."""
    bandwidth: float
    """Bytes of device memory per second."""
    flops: dict[str, float]
    """Floating-point operations per second, by the type that is multiplied: `bf16`, `tf32`, `fp32` and `fp64`."""


def _card(name: str, gigabytes: float, terabytes_per_second: float, *tera: float) -> Card:
    speeds = dict(zip(("bf16", "tf32", "fp32", "fp64"), (1e12 * t for t in tera), strict=True))
    return Card(name, 1e9 * gigabytes, 1e12 * terabytes_per_second, speeds)


# Source: NVIDIA's data sheets. Where they give speeds with sparsity, these are half of them.
CARDS = {
    "a100": _card("A100 80GB SXM", 80, 2.039, 312, 156, 19.5, 19.5),
    "h100": _card("H100 80GB SXM", 80, 3.35, 989.5, 494.7, 67, 67),
    "h200": _card("H200 141GB SXM", 141, 4.8, 989.5, 494.7, 67, 67),
    "b200": _card("B200 180GB", 180, 7.7, 2250, 1100, 75, 37),
    "l40s": _card("L40S 48GB", 48, 0.864, 362, 183, 91.6, 1.43),
    "l4": _card("L4 24GB", 24, 0.300, 121, 60, 30.3, 0.49),
    "rtx4090": _card("RTX 4090 24GB", 24, 1.008, 165.2, 82.6, 82.6, 1.29),
}
"""The known cards by the name that `--device` takes."""
