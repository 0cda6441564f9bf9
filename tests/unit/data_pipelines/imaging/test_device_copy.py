import numpy as np
import pytest
import torch

from data_pipelines.imaging.device_copy import normalize, scale_and_offset
from data_pipelines.imaging.opencv import _normalization

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pixels_are_normalized_as_by_hand(dtype: torch.dtype) -> None:
    pixels = torch.arange(2 * 8 * 16 * 3).remainder(256).to(torch.uint8).view(2, 8, 16, 3)
    scale, offset = scale_and_offset(_normalization(MEAN, STD), torch.device("cpu"), dtype)
    found = normalize(pixels, scale, offset)
    assert (found.shape, found.dtype) == ((2, 3, 8, 16), dtype)
    assert found.is_contiguous(memory_format=torch.channels_last)
    expected = (pixels.numpy() / 255 - np.asarray(MEAN)) / np.asarray(STD)  # [B, S, S, 3]
    np.testing.assert_allclose(found.permute(0, 2, 3, 1), expected, rtol=0, atol=2e-6)
