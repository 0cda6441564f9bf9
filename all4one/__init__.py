"""The public Python interface: train, evaluate and use backbones without the command line.

Importing it loads no torch. Wrong input raises a `UserError` that names the problem, the place and the fix.
"""

from importlib import metadata
from typing import TYPE_CHECKING, Any

from all4one.errors import RunFailed, RunInterrupted, RunNotFinished
from all4one.inference import Embeddings, embed, load_backbone
from all4one.runs import evaluate, load_config, resume, train
from data_pipelines.errors import UserError

if TYPE_CHECKING:
    from all4one.pretrained import PretrainedBackbone
    from trainer.config.schema import Config

__version__ = metadata.version("all4one")
__all__ = [
    "Config",
    "Embeddings",
    "PretrainedBackbone",
    "RunFailed",
    "RunInterrupted",
    "RunNotFinished",
    "UserError",
    "__version__",
    "embed",
    "evaluate",
    "load_backbone",
    "load_config",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    """The classes whose modules load torch, when they are first asked for."""
    if name == "Config":
        from trainer.config.schema import Config

        return Config
    if name == "PretrainedBackbone":
        from all4one.pretrained import PretrainedBackbone

        return PretrainedBackbone
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
