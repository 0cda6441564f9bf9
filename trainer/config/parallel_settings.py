"""Settings of parallel training."""

from typing import Any, Literal

from pydantic import Field, field_validator

from data_pipelines.settings import Settings


class ParallelSettings(Settings):
    """How the processes of a run work together."""

    first_names = {"zero": "zero_stage", "threads": "torch_threads"}

    zero_stage: Literal[0, 1, 2] = 0
    """ZeRO stage. 0: every process keeps the full optimizer state and gradients. 1: the optimizer state is sharded over
    the processes. 2: gradients are sharded too. The results are the same up to rounding."""
    gradient_dtype: Literal["fp32", "bf16"] = "fp32"
    """Dtype in which gradients are averaged over the processes. bf16 halves the communication volume and rounds each
    gradient to 8 bits of precision. With `train.precision` fp64, gradients stay float64."""
    batch_norm: Literal["global", "rank"] = "global"
    """Rows over which batch norm computes its batch statistics: those of the `global` batch, or of each `rank`.
    The running statistics for evaluation are averaged over all processes in either case."""
    batch_norm_group: int = Field(0, ge=0)
    """Number of consecutive processes that share the batch statistics of a global batch norm. It must divide the number
    of processes. 0: all processes."""
    compile: bool = False
    """Compile backbone and heads with torch.compile, each as one graph. Compilation takes about a minute at the first
    step and again at the first evaluation. Use it on GPUs and for long runs. It brought no speedup on the CPUs where it
    was measured."""
    cudnn_benchmark: bool = False
    """On GPUs, let cuDNN time its algorithms for each convolution at the first step and take the fastest. The choice,
    and with it the last bits of results, may differ between starts."""
    torch_threads: int = Field(0, ge=0)
    """CPU threads of torch in each process. The number changes the last bits of results. 0: one for each core that a
    process has to itself when the run starts. The run keeps this number when it is resumed."""

    @field_validator("zero_stage", mode="before")
    @classmethod
    def _no_stage_3(cls, value: Any) -> Any:
        if value in (3, "3"):
            raise ValueError(
                "stage 3 frees weights between uses, so the momentum (EMA) encoders, which average those weights, "
                "would not be updated: it must be 0, 1 or 2"
            )
        return value
