"""Settings of the data plane: what a recipe may say about images and their views."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from platformdirs import user_cache_path
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from data_pipelines.presets import expand
from data_pipelines.urls import Place

Probability = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0, lt=1)]


class Settings(BaseModel):
    """Base of every settings model: unknown keys are refused, instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
    first_names: ClassVar[Mapping[str, str]] = {}
    """Names that version 0.1 gave to settings of this model, with their names today. Both are accepted."""

    @classmethod
    def renamed(cls) -> dict[str, str]:
        """`first_names` of this model and its bases, but for names that settings have today."""
        found: dict[str, str] = {}
        for base in reversed(cls.__mro__):
            found |= vars(base).get("first_names", {})
        return {old: new for old, new in found.items() if old not in cls.model_fields}

    @model_validator(mode="before")
    @classmethod
    def _accept_first_names(cls, values: Any) -> Any:
        """Where a setting has both names, the one that was set last counts."""
        renamed = cls.renamed()
        if not isinstance(values, Mapping) or not renamed.keys() & values.keys():
            return values
        return {renamed.get(key, key): value for key, value in values.items()}


class ViewSettings(Settings):
    """One augmented view. Strengths follow torchvision's ColorJitter."""

    first_names = {
        "flip": "flip_prob",
        "jitter": "color_jitter_prob",
        "grey": "grayscale_prob",
        "blur": "blur_prob",
        "solarise": "solarize_prob",
    }

    size: int = Field(224, ge=8, le=1024)
    """Side of the square view, pixels."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Area of the random crop as a share of the image, lowest and highest."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of the random crop, lowest and highest (drawn on a log scale)."""
    flip_prob: Probability = 0.5
    """Probability of a horizontal flip."""
    color_jitter_prob: Probability = 0.8
    """Probability of color jitter."""
    brightness: Strength = 0.4
    """Brightness factor is drawn from [1 - b, 1 + b]."""
    contrast: Strength = 0.4
    """Contrast factor is drawn from [1 - c, 1 + c]."""
    saturation: Strength = 0.2
    """Saturation factor is drawn from [1 - s, 1 + s]."""
    hue: float = Field(0.1, ge=0, le=0.5)
    """Hue shift is drawn from [-h, h], in turns of the color circle."""
    grayscale_prob: Probability = 0.2
    """Probability of conversion to grayscale."""
    blur_prob: Probability = 0.0
    """Probability of Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Standard deviation of the blur, pixels of the view, lowest and highest."""
    solarize_prob: Probability = 0.0
    """Probability of solarization: x becomes min(x, 255 - x)."""

    @model_validator(mode="after")
    def _ordered(self) -> "ViewSettings":
        for name, floor in (("crop_scale", 0.0), ("crop_ratio", 0.0), ("blur_sigma", 0.0)):
            low, high = getattr(self, name)
            if not floor < low <= high:
                raise ValueError(f"{name} must be two positive numbers, the lower first, not {low}, {high}")
        if self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale must not exceed 1, not {self.crop_scale[1]}")
        return self


class StreamSettings(Settings):
    """What `data.reader: stream` must be told, since there is no index to ask."""

    samples: int = Field(0, ge=0)
    """Samples that count as an epoch."""
    classes: int = Field(0, ge=0)
    """Classes of the labels in `.cls` or `.json`; 0: labels are not read."""
    buffer: int = Field(10_000, ge=1)
    """Samples that each process shuffles in memory, encoded."""


class GpuDecoderSettings(Settings):
    """DALI's JPEG decoder on GPUs that have decoding hardware (from Ampere on); others take no notice."""

    hardware_load: float = Field(0.65, ge=0, le=1)
    """Fraction of a batch's images, its first ones, that the hardware decodes. The GPU's cores decode the rest, to
    pixels that may differ in their last bits. The best value depends on the GPU and on `data.decode_threads`. With 0 or
    1 the pixels of a sample do not depend on its place in the batch."""
    width_hint: int = Field(0, ge=0)
    """Width of the images for which memory is set aside at the start, pixels; 0: memory grows as they come."""
    height_hint: int = Field(0, ge=0)
    """Height of the images for which memory is set aside at the start, pixels."""


class DataSettings(Settings):
    """Where images come from and how they become batches."""

    first_names = {"threads": "decode_threads", "cache_ahead": "prefetch_shards"}

    train: Place = Path("data/train")
    """Folder of shards with their index, to learn from: a path, or a URL that fsspec knows (`s3://BUCKET/PATH`)."""
    validation: Place | None = None
    """Folder of labeled shards for kNN and probes; none: no evaluation during training."""
    cache: Path | None = None
    """Folder on a disk of this machine that keeps the shards of URLs. Processes and runs share it. null:
    `all4one/shards` in the user's cache folder (`$XDG_CACHE_HOME`, or `~/.cache`)."""
    cache_bytes: int = Field(100_000_000_000, ge=1)
    """Bytes that all shards in `cache` may hold; those not read for longest go first."""
    prefetch_shards: int = Field(16, ge=0, le=4096)
    """Shards that are fetched before the block of `shuffle_block` samples that needs them is reached."""
    reader: Literal["index", "stream"] = "index"
    """`index`: shards with an index, exact order and resume. `stream`: any URL that webdataset opens, `data.train` with
    braces (`shard-{000000..000099}.tar`), shards drawn with replacement; resume goes on with other samples."""
    stream: StreamSettings = StreamSettings()
    allow_pipe: bool = False
    """Whether `pipe:` URLs may run their shell commands, in a stream."""
    executor: Literal["auto", "dali", "opencv"] = "auto"
    """What decodes and augments: DALI where there is a CUDA device and OpenCV where there is none, or one of both."""
    gpu_decoder: GpuDecoderSettings = GpuDecoderSettings()
    decode_threads: int = Field(0, ge=0, le=256)
    """Decoding threads of each process; 0: this process's share of the machine's cores."""
    prefetch: int = Field(3, ge=1, le=64)
    """Batches that are made ready ahead of the step."""
    read_ahead: bool = False
    """Whether whole shards are read into the page cache before their block is reached: for disks that are slow at
    random reads. Needs memory for two blocks."""
    shuffle_block: int = Field(100_000, ge=1)
    """Samples that are shuffled together, at least; a block is made of whole shards that were permuted first."""
    max_bad_fraction: float = Field(0.001, ge=0, le=1)
    """Share of a rank's samples that may turn out unreadable before the run stops; above 0, eight always may."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of red, green, blue in [0, 1] that normalization subtracts."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of red, green, blue in [0, 1] that normalization divides by."""
    views: tuple[ViewSettings, ...] = (ViewSettings(), ViewSettings(solarize_prob=0.2))
    """The views of each image, in order: a list, or the name of a preset; see `data_pipelines.presets`."""
    eval_resize: int = Field(256, ge=8, le=2048)
    """Shorter side of an image for evaluation, pixels, before the center crop of the first view's size."""

    @property
    def cache_folder(self) -> Path:
        """Folder that keeps the shards of URLs."""
        return self.cache.expanduser() if self.cache is not None else user_cache_path("all4one") / "shards"

    @property
    def sizes(self) -> list[int]:
        """Sizes of the views, pixels: that of the first, then those that others have."""
        return list(dict.fromkeys(view.size for view in self.views))

    @field_validator("views", mode="before")
    @classmethod
    def _written_out(cls, views: Any) -> Any:
        return expand(views)

    @model_validator(mode="after")
    def _usable(self) -> "DataSettings":
        if len(self.views) < 2:
            raise ValueError(f"views must list at least two views, not {len(self.views)}")
        if self.eval_resize < self.views[0].size:
            raise ValueError(
                f"eval_resize ({self.eval_resize}) must not be below the view's size ({self.views[0].size})"
            )
        if self.reader == "stream" and self.stream.samples == 0:
            raise ValueError("stream.samples must say how many samples are an epoch, with reader: stream")
        if self.reader == "stream" and self.validation is not None:
            raise ValueError(
                "validation must be null with reader: stream, since kNN needs an indexed training set; judge the "
                "checkpoints by `all4one eval RUN --train SHARDS --validation SHARDS`"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, not {self.std}")
        return self
