import numpy as np
import pytest
import torch

from data_pipelines.imaging.normalization import Normalization

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 2e-6), (torch.float64, 2e-6), (torch.bfloat16, 2**-8)]
)
def test_pixels_are_normalized_as_by_hand(dtype: torch.dtype, error: float) -> None:
    pixels = torch.arange(2 * 8 * 16 * 3).remainder(256).to(torch.uint8).view(2, 8, 16, 3).permute(0, 3, 1, 2)
    out = torch.empty(2, 8, 16, 3, dtype=dtype).permute(0, 3, 1, 2)
    Normalization(MEAN, STD, torch.device("cpu"))(pixels, out)
    expected = (pixels.permute(0, 2, 3, 1).numpy() / 255 - np.asarray(MEAN)) / np.asarray(STD)  # [B, S, S, 3]
    np.testing.assert_allclose(out.permute(0, 2, 3, 1).double(), expected, rtol=error, atol=error)
