import numpy as np
import pytest
from PIL import Image

from data_pipelines.errors import UserError
from data_pipelines.sources.masked_images import crop_mask, masked_images, read_mask, require_usable


def save(folder, name, mask, mode="L"):
    """An image and its mask [H, W]."""
    image, file = folder / "images" / f"{name}.jpg", folder / "masks" / f"{name}.png"
    for path in (image, file):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*mask.shape, 3), np.uint8)).save(image)
    picture = Image.fromarray(mask)
    if mode == "P":
        picture.putpalette([value for number in range(256) for value in (number, 0, 255 - number)])
    picture.convert(mode).save(file) if mode == "RGB" else picture.save(file)


@pytest.fixture
def mask():
    return np.random.default_rng(0).choice(np.array([0, 1, 7, 255], np.uint8), (31, 50))


@pytest.mark.parametrize("mode", ["L", "P"])
def test_masks_have_numbers_with_and_without_a_palette(tmp_path, mask, mode):
    save(tmp_path, "b", mask, mode)
    save(tmp_path, "a/z", mask, mode)
    found = masked_images(tmp_path)
    assert [str(pair.image.relative_to(tmp_path)) for pair in found] == ["images/a/z.jpg", "images/b.jpg"]
    for pair in found:
        require_usable(pair)
        assert np.array_equal(read_mask(pair), mask)


def test_a_crop_is_that_of_pillow(mask):
    """31 of 31 x 50 pixels, of which the center of 23 / 25 is resized to 23 pixels."""
    side = round(31 * 23 / 25)
    y, x = (31 - side) // 2, (50 - side) // 2
    box = Image.fromarray(mask).crop((x, y, x + side, y + side))
    assert np.array_equal(crop_mask(mask, resize=25, crop=23), box.resize((23, 23), Image.Resampling.NEAREST))


def test_wrong_folders(tmp_path, mask):
    with pytest.raises(UserError, match="there is no folder images"):
        masked_images(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(UserError, match="has no images"):
        masked_images(tmp_path)
    save(tmp_path, "a", mask)
    save(tmp_path, "b", mask)
    (tmp_path / "masks" / "b.png").unlink()
    with pytest.raises(UserError, match=r"1 of 2 images have no mask, such as images/b.jpg") as raised:
        masked_images(tmp_path)
    assert "add masks/b.png" in str(raised.value)


def test_wrong_masks(tmp_path, mask):
    save(tmp_path, "a", mask, "RGB")
    save(tmp_path, "b", mask)
    save(tmp_path, "c", mask)
    Image.fromarray(mask[1:]).save(tmp_path / "masks" / "b.png")
    (tmp_path / "masks" / "c.png").write_bytes(b"no image")
    colors, size, broken = masked_images(tmp_path)
    with pytest.raises(UserError, match="is a picture of mode RGB"):
        require_usable(colors)
    with pytest.raises(UserError, match="has 50 x 30 pixels, but its image has 50 x 31"):
        require_usable(size)
    with pytest.raises(UserError, match="cannot be read"):
        require_usable(broken)


def test_a_mask_that_is_cut_short_is_named(tmp_path, mask):
    save(tmp_path, "a", mask)
    (pair,) = masked_images(tmp_path)
    pair.mask.write_bytes(pair.mask.read_bytes()[:-200])
    require_usable(pair)
    with pytest.raises(UserError, match=r"masks/a.png: cannot be read"):
        read_mask(pair)
