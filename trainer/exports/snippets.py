"""Code for the model card that loads an exported folder and computes the features of one image."""

from trainer.exports.format import Subject
from trainer.networks.backbones import stem_geometry

_TIMM = """\
import timm
import torch
from PIL import Image

model = timm.create_model("local-dir:.", pretrained=True, num_classes=0).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
image = transform(Image.open("image.jpg").convert("RGB"))  # [3, {size}, {size}]
with torch.no_grad():
    features = model(image[None])  # [1, {features}]"""

_TORCHVISION = """\
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torchvision.transforms import v2

model = torchvision.models.{name}()
model.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride={stride}, padding={padding}, bias=False)
model.maxpool = model.fc = nn.Identity()
model.load_state_dict(load_file("model.safetensors"))
model.eval()
{image}
with torch.no_grad():
    features = model(image[None])  # [1, {features}]"""

_OURS = """\
# a ResNet of a custom width, which the package all4one builds
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms import v2
from trainer.inference.loaded_backbones import load_backbones

model = load_backbones(Path("model.safetensors")).backbones["exported"].cpu()
{image}
with torch.no_grad():
    features = model(image[None])  # [1, {features}]"""

_HUB = """\
import all4one
import torch

model = all4one.load_backbone("hf://{repository}")
with torch.no_grad():
    features = model(model.preprocess(["image.jpg"]))  # [1, {features}]"""

_IMAGE = """\
transform = v2.Compose(
    [
        v2.PILToTensor(),
        v2.Resize({resize}, interpolation=v2.InterpolationMode.BICUBIC),
        v2.CenterCrop({size}),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize({mean}, {std}),
    ]
)
image = transform(Image.open("image.jpg").convert("RGB"))  # [3, {size}, {size}]"""


def hub_snippet(subject: Subject) -> str:
    """Return Python code that loads the backbone from the hub and computes `features` `[1, F]` of `image.jpg`."""
    return _HUB.format(repository=subject.repository, features=subject.backbone.feature_dim)


def snippet(subject: Subject) -> str:
    """Return Python code that runs in the exported folder beside `image.jpg` and computes `features` `[1, F]`."""
    data, size, features = subject.recipe.data, subject.recipe.image_size, subject.backbone.feature_dim
    if subject.is_plain:
        return _TIMM.format(size=size, features=features)
    image = _IMAGE.format(resize=data.eval_resize, size=size, mean=list(data.mean), std=list(data.std))
    if subject.recipe.backbone.width != 64:
        return _OURS.format(image=image, features=features)
    stride, padding = stem_geometry(subject.stem)
    return _TORCHVISION.format(
        name=subject.name, stride=stride, padding=padding, image=image, features=features
    )
