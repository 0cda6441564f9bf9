"""Settings of how processes share the work."""

from typing import Any, Literal

from pydantic import Field, field_validator

from data_pipelines.settings import Settings


class ParallelSettings(Settings):
    """How processes work together."""

    first_names = {"zero": "zero_stage", "threads": "torch_threads"}

    zero_stage: Literal[0, 1, 2] = 0
    """ZeRO stage: what is kept once over all processes, not by each. 0: nothing; 1: the optimizer's state; 2: gradients
    too. All three learn the same up to rounding."""
    gradient_dtype: Literal["fp32", "bf16"] = "fp32"
    """What gradients are averaged over the processes in. bf16 halves the message and rounds each gradient to 8 bits.
    With `train.precision` fp64 they stay float64."""
    batch_norm: Literal["global", "rank"] = "global"
    """Whose rows batch norm takes its moments from."""
    batch_norm_group: int = Field(0, ge=0)
    """Consecutive processes that share the moments of a global batch norm; it must divide their number. 0: all."""
    compile: bool = False
    """Compile backbone and heads (torch.compile), which takes a minute at the first step and again at the first
    evaluation: for GPUs and long runs. On the CPUs where it was measured it gave nothing."""
    torch_threads: int = Field(0, ge=0)
    """CPU threads of torch in each process; 0: this process's share of the machine's cores."""

    @field_validator("zero_stage", mode="before")
    @classmethod
    def _no_stage_3(cls, value: Any) -> Any:
        if value in (3, "3"):
            raise ValueError(
                "stage 3 empties weights between uses, so that momentum copies, which are moving averages of them, "
                "would stand still: it must be 0, 1 or 2"
            )
        return value
