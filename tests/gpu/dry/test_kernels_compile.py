"""The Triton kernels compile to machine code for GPUs on a machine without one."""

from typing import Any

import pytest
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from trainer.distributed import batch_norm_kernels, two_norms_kernels
from trainer.networks import layer_norm_kernels

TILE = {"ROWS": 64, "COLUMNS": 64}
KERNELS: dict[str, dict[str, int | float | bool]] = {
    "statistics_of_chunks": TILE,
    "combine": {"MOMENTUM": 0.1, "EPS": 1e-5, "FINAL": True, "PARTS": 64, "COLUMNS": 64},
    "normalize": {"RELU": True, "RESIDUAL": True, **TILE},
    "gradient_sums_of_chunks": {"RELU": True, "RESIDUAL": True, "FORKED": True, **TILE},
    "input_gradient": {"RELU": True, **TILE},
    "normalize_two": TILE,
    "gradient_sums_of_two_of_chunks": {"FORKED": True, **TILE},
    "input_gradients_of_two": TILE,
}
INPUTS = ("x", "y", "x2", "dy", "dy2", "out", "out2", "residual", "masked")
NUMBERS = ("rows", "chunk", "columns", "number", "views", "count", "stride")


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_compiles(name: str, dtype: str, capability: int) -> None:
    module = batch_norm_kernels if hasattr(batch_norm_kernels, name) else two_norms_kernels
    kernel = getattr(module, name)
    types = {argument: f"*{dtype}" for argument in kernel.arg_names if argument in INPUTS}
    if name == "combine":
        types["out"] = "*fp32"
    types |= {argument: "i32" for argument in kernel.arg_names if argument in NUMBERS}
    compiled(kernel, types, {**KERNELS[name], "SUM": tl.float32}, capability)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("columns", [64, 384, 4096])
@pytest.mark.parametrize("name", ["_normalize", "_gradients"])
def test_a_kernel_of_layer_norm_compiles(name: str, columns: int, dtype: str, capability: int) -> None:
    kernel = getattr(layer_norm_kernels, name)
    rows, wide, warps = layer_norm_kernels._tile(columns)
    types = {"x": f"*{dtype}", "dx": f"*{dtype}", "dy": "*bf16", "out": "*bf16", "eps": "fp32"}
    types = {name: kind for name, kind in types.items() if name in kernel.arg_names}
    types |= {argument: "i32" for argument in kernel.arg_names if argument in NUMBERS}
    compiled(kernel, types, {"ROWS": rows, "COLUMNS": wide}, capability, warps)


def compiled(
    kernel: Any, types: dict[str, str], constants: dict[str, Any], capability: int, warps: int = 4
) -> None:
    """Compile a kernel, whose arguments without a type point to float32."""
    types = dict.fromkeys(kernel.arg_names, "*fp32") | types | dict.fromkeys(constants, "constexpr")
    source = ASTSource(
        fn=kernel,
        signature=types,
        constexprs={(kernel.arg_names.index(name),): value for name, value in constants.items()},
    )
    target = GPUTarget("cuda", capability, 32)
    made = triton.compile(source, target=target, options={"num_warps": warps})
    assert f"sm_{capability}" in made.asm["ptx"]
    assert made.asm["cubin"]
