"""The recipes whose step is run without a device, by name. Each is one of 8 ranks."""

from trainer.config.schema import Config, load_config

WORLD_SIZE = 8
CLASSES = 100
COMMON = [
    "train.precision=bf16",
    "train.global_batch=512",
    "eval.every_epochs=0",
    "metrics.health_every=0",
]
QUEUE = ["method.queue.size=4096"]
ADAMW = ["optim.name=adamw", "optim.lr=0.001"]
CROPS = "data.views=[{preset: byol, size: 224}, {size: 96, crop_scale: [0.05, 0.14], count: 4}]"

CASES: dict[str, list[str]] = {
    "all4one": QUEUE,
    "fp32": [*QUEUE, "train.precision=fp32"],
    "clipped, bf16 gradients, batch norm in groups": [
        *QUEUE,
        "parallel.gradient_dtype=bf16",
        "optim.max_grad_norm=1",
        "parallel.batch_norm_group=4",
    ],
    "batch norm of each rank, recompute": [
        *QUEUE,
        "parallel.batch_norm=rank",
        "backbone.activation_checkpointing=true",
    ],
    "accumulation": [*QUEUE, "train.grad_accum_steps=2"],
    "health values": [*QUEUE, "metrics.health_every=1"],
    "global features, both views, multi-crop": [
        *QUEUE,
        "method.feature_scope=global",
        "method.queue_views=both",
        CROPS,
    ],
    "soft neighbors, attention pooling": [
        *QUEUE,
        "method.neighbor_softness=0.1",
        "method.centroid_pooling=attention",
    ],
    "neighbors in the encoder's space": [*QUEUE, "method.neighbor_space=encoder"],
    "drawn numbers of neighbors": [*QUEUE, "method.min_neighbors=1"],
    "refreshed queue": [*QUEUE, "method.queue_refresh=0.1"],
    "ZeRO 1": [*QUEUE, "parallel.zero_stage=1"],
    "ZeRO 2, adamw": [*QUEUE, "parallel.zero_stage=2", *ADAMW],
    "ResNet-50": [*QUEUE, "backbone.name=resnet50"],
    "ViT-S": [*QUEUE, "backbone.name=vit_small_patch16_224", *ADAMW],
    "ConvNeXt": [*QUEUE, "backbone.name=convnext_tiny", *ADAMW],
    "nnclr": ["method.name=nnclr", *QUEUE],
    **{name: [f"method.name={name}"] for name in ("simclr", "byol", "moco_v3", "barlow_twins", "vicreg")},
    "swav": ["method.name=swav", CROPS],
    "swav with a queue": ["method.name=swav", "method.queue_size=3840", CROPS],
    "dino": ["method.name=dino", CROPS],
    "msf": ["method.name=msf", *QUEUE],
    "lejepa": ["method.name=lejepa"],
    "resa": ["method.name=resa", CROPS],
    "intl": ["method.name=intl"],
    "simsiam": ["method.name=simsiam"],
}


def config_of(case: str) -> Config:
    """Return the settings of a case."""
    return load_config("imagenet100_resnet18", [*COMMON, *CASES[case]])
