"""Settings of the data pipeline: images, views and loading."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from platformdirs import user_cache_path
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from data_pipelines.presets import expand
from data_pipelines.typed_values import as_typed, holds_models, refuse_control_characters
from data_pipelines.urls import Place, Url

Probability = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0, lt=1)]


class Settings(BaseModel):
    """Base of every settings model. Unknown keys are rejected, and instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
    first_names: ClassVar[Mapping[str, str]] = {}
    """Setting names of version 0.1 with their current names. Both are accepted."""

    @classmethod
    def renamed(cls) -> dict[str, str]:
        """Return `first_names` of this model and its bases, except for old names that are current settings again."""
        found: dict[str, str] = {}
        for base in reversed(cls.__mro__):
            found |= vars(base).get("first_names", {})
        return {old: new for old, new in found.items() if old not in cls.model_fields}

    @model_validator(mode="before")
    @classmethod
    def _accept_first_names(cls, values: Any) -> Any:
        """Replace old names. If a setting is given under both names, the last one counts."""
        renamed = cls.renamed()
        if not isinstance(values, Mapping) or not renamed.keys() & values.keys():
            return values
        return {renamed.get(key, key): value for key, value in values.items()}

    several_lines: ClassVar[frozenset[str]] = frozenset()
    """Settings whose text may have several lines."""

    @field_validator("*", mode="before")
    @classmethod
    def _take_as_typed(cls, value: Any, info: ValidationInfo) -> Any:
        """Take text as it was typed, and expand `~` in paths. Refuse control characters."""
        assert info.field_name is not None
        annotation = cls.model_fields[info.field_name].annotation
        if not holds_models(annotation) or isinstance(value, str):
            refuse_control_characters(value, allowed="\n\t" if info.field_name in cls.several_lines else "")
        return as_typed(value, annotation)

    def with_absolute_paths(self) -> Self:
        """Return the same settings with paths that mean the same in every working directory."""
        changed: dict[str, Any] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Settings):
                changed[name] = value.with_absolute_paths()
            elif isinstance(value, Path):
                changed[name] = value.absolute()
            elif isinstance(value, tuple):
                changed[name] = tuple(
                    v.with_absolute_paths() if isinstance(v, Settings) else v for v in value
                )
        return self.model_copy(update=changed)


class ViewSettings(Settings):
    """One augmented view. Strengths are defined as in torchvision's ColorJitter."""

    first_names = {
        "flip": "flip_prob",
        "jitter": "color_jitter_prob",
        "grey": "grayscale_prob",
        "blur": "blur_prob",
        "solarise": "solarize_prob",
    }

    size: int = Field(224, ge=8, le=1024)
    """Side length of the square view, in pixels."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Area of the random crop as a fraction of the image: minimum and maximum."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Aspect ratio (width / height) of the random crop: minimum and maximum. It is drawn on a log scale."""
    flip_prob: Probability = 0.5
    """Probability of a horizontal flip."""
    color_jitter_prob: Probability = 0.8
    """Probability of color jitter."""
    brightness: Strength = 0.4
    """The brightness factor is drawn from [1 - b, 1 + b]."""
    contrast: Strength = 0.4
    """The contrast factor is drawn from [1 - c, 1 + c]."""
    saturation: Strength = 0.2
    """The saturation factor is drawn from [1 - s, 1 + s]."""
    hue: float = Field(0.1, ge=0, le=0.5)
    """The hue shift is drawn from [-h, h], as a fraction of the color circle."""
    grayscale_prob: Probability = 0.2
    """Probability of conversion to grayscale."""
    blur_prob: Probability = 0.0
    """Probability of Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Standard deviation of the blur, in pixels of the view: minimum and maximum."""
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
    """Settings of `data.reader: stream`, which has no index to read these values from."""

    samples: int = Field(0, ge=0)
    """Number of samples that count as one epoch."""
    classes: int = Field(0, ge=0)
    """Number of label classes in `.cls`, `.json`, `.txt` or `.npy`. 0: labels are not read."""
    buffer: int = Field(10_000, ge=1)
    """Size of each process's shuffle buffer, in encoded samples."""


class GpuDecoderSettings(Settings):
    """DALI's JPEG decoder on GPUs with decoding hardware (Ampere or newer). Other GPUs ignore these settings."""

    hardware_load: float = Field(0.65, ge=0, le=1)
    """Fraction of each batch, from its start, that the decoding hardware decodes. The GPU's cores decode the rest, and
    their pixels may differ in the last bits. The best value depends on the GPU and on `data.decode_threads`. With 0 or
    1, the pixels of a sample do not depend on its position in the batch."""
    hybrid_huffman_threshold: int = Field(1_000_000, ge=0)
    """Pixels of an image above which the GPU's cores decode its Huffman codes. A CPU thread decodes those of smaller
    images. A lower value takes work from CPU threads that cannot keep up."""
    width_hint: int = Field(0, ge=0)
    """Image width, in pixels, for which decoder memory is allocated at the start. 0: memory grows on demand."""
    height_hint: int = Field(0, ge=0)
    """Image height, in pixels, for which decoder memory is allocated at the start."""


class MixedSetSettings(Settings):
    """One of several training sets that are mixed."""

    path: Place
    """Folder of indexed shards, as a path or a URL."""
    weight: float | None = Field(None, gt=0)
    """Weight of the set. Its fraction of every epoch is its weight divided by the sum of all weights. Null for all
    sets: the number of samples of each set."""

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str | Path) else value


def _kind_of_train(value: Any) -> str:
    """Return the tag of the type that a value of `data.train` is meant for. Messages name no tag in parentheses."""
    return "(sets)" if isinstance(value, list | tuple | Mapping) else "(set)"


class DataSettings(Settings):
    """The datasets, and how their images are loaded and augmented."""

    first_names = {"threads": "decode_threads", "cache_ahead": "prefetch_shards"}

    train: Annotated[
        Annotated[Place, Tag("(set)")] | Annotated[tuple[MixedSetSettings, ...], Tag("(sets)")],
        Discriminator(_kind_of_train),
    ] = Path("data/train")
    """Training set: a folder of indexed shards, as a path or a URL that fsspec supports (`s3://BUCKET/PATH`). A list
    mixes several sets by weight: `[{path: data/a, weight: 2}, {path: data/b, weight: 1}]`."""
    classes: tuple[str, ...] | None = Field(None, min_length=1)
    """Names of the classes to train on. Other samples are left out, also of the validation set. None: all."""
    min_side: int = Field(0, ge=0)
    """Shorter side, in pixels as stored, that a training image needs. Smaller images are left out. 0: none."""
    max_samples: int = Field(0, ge=0)
    """Most training samples, for trials. They are spread over the classes as evenly as possible. 0: all."""
    validation: Place | None = None
    """Validation set: a folder of labeled, indexed shards for kNN. None: no evaluation during training."""
    cache: Path | None = None
    """Cache folder on a local disk for shards from URLs. Processes and runs share it. None: `all4one/shards` in the
    user's cache folder (`$XDG_CACHE_HOME`, or `~/.cache`)."""
    cache_bytes: int = Field(100_000_000_000, ge=1)
    """Maximum size of all shards in `cache`, in bytes. The least recently used shards are removed first."""
    prefetch_shards: int = Field(16, ge=0, le=4096)
    """Number of shards to download ahead of the `shuffle_block` that needs them."""
    reader: Literal["index", "stream"] = "index"
    """`index`: indexed shards, with exact sample order and exact resume. `stream`: any URL that webdataset opens, with
    braces in `data.train` (`shard-{000000..000099}.tar`). A stream draws shards with replacement, and a resumed run
    sees other samples."""
    stream: StreamSettings = StreamSettings()
    allow_pipe: bool = False
    """Whether `pipe:` URLs of a stream may run their shell commands."""
    executor: Literal["auto", "dali", "opencv"] = "auto"
    """Library that decodes and augments images. `auto`: DALI if there is a CUDA device, otherwise OpenCV."""
    gpu_decoder: GpuDecoderSettings = GpuDecoderSettings()
    decode_threads: int = Field(0, ge=0, le=256)
    """Decoding threads of each process. 0: the machine's cores divided by its processes."""
    prefetch: int = Field(3, ge=1, le=64)
    """Number of batches to prepare ahead of the training step."""
    read_ahead: bool = False
    """Whether to read whole shards into the page cache before their block is reached. Use it on disks with slow random
    reads. It needs memory for two blocks."""
    shuffle_block: int = Field(100_000, ge=1)
    """Minimum number of samples that are shuffled together. A block consists of whole shards in random order."""
    max_bad_fraction: float = Field(0.001, ge=0, le=1)
    """Fraction of a rank's samples that may be unreadable before the run stops. If it is above 0, eight are always
    allowed."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of red, green and blue in [0, 1] that normalization subtracts."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of red, green and blue in [0, 1] that normalization divides by."""
    views: tuple[ViewSettings, ...] = (ViewSettings(), ViewSettings(solarize_prob=0.2))
    """The views of each image, in order: a list, or the name of a preset. See `data_pipelines.presets`."""
    eval_resize: int = Field(256, ge=8, le=2048)
    """Shorter side, in pixels, to which evaluation resizes images before the center crop to the first view's size."""

    @property
    def cache_folder(self) -> Path:
        """Folder that keeps the shards of URLs."""
        return self.cache if self.cache is not None else user_cache_path("all4one") / "shards"

    @property
    def train_places(self) -> tuple[Path | Url, ...]:
        """Locations of the training sets, in order."""
        return tuple(one.path for one in self.train) if isinstance(self.train, tuple) else (self.train,)

    @property
    def train_names(self) -> str:
        """The training sets in one line, each with its weight if it has one."""
        if not isinstance(self.train, tuple):
            return str(self.train)
        weights = (f" (weight {one.weight:g})" if one.weight is not None else "" for one in self.train)
        return " + ".join(f"{one.path}{weight}" for one, weight in zip(self.train, weights, strict=True))

    @property
    def sizes(self) -> list[int]:
        """Distinct view sizes in pixels. The size of the first view comes first."""
        return list(dict.fromkeys(view.size for view in self.views))

    @field_validator("views", mode="before")
    @classmethod
    def _written_out(cls, views: Any) -> Any:
        return expand(views)

    @field_validator("train")
    @classmethod
    def _can_be_mixed(cls, train: Any) -> Any:
        if not isinstance(train, tuple):
            return train
        if not train:
            raise ValueError("must list at least one set")
        if 0 < sum(one.weight is None for one in train) < len(train):
            raise ValueError("must give a weight to each of its sets or to none")
        paths = [str(one.path) for one in train]
        if twice := next((path for path in paths if paths.count(path) > 1), None):
            raise ValueError(f"lists {twice} twice; list it once, with a higher weight")
        return train

    @model_validator(mode="after")
    def _usable(self) -> "DataSettings":
        if self.reader == "stream" and isinstance(self.train, tuple):
            raise ValueError(
                "train must be one text: streams cannot be mixed; use indexed sets, or join URLs with ::"
            )
        if self.reader == "stream" and (self.classes or self.min_side or self.max_samples):
            raise ValueError("classes, min_side and max_samples need reader: index")
        if len(self.views) < 2:
            raise ValueError(f"views must list at least two views, not {len(self.views)}")
        if self.eval_resize < self.views[0].size:
            raise ValueError(
                f"eval_resize ({self.eval_resize}) must not be below the view's size ({self.views[0].size})"
            )
        if self.reader == "stream" and self.stream.samples == 0:
            raise ValueError(
                "stream.samples must be set with reader: stream; it is the number of samples in an epoch"
            )
        if self.reader == "stream" and self.validation is not None:
            raise ValueError(
                "validation must be null with reader: stream, because kNN needs an indexed training set; evaluate the "
                "checkpoints with `all4one eval RUN --train SHARDS --validation SHARDS`"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, not {self.std}")
        return self
