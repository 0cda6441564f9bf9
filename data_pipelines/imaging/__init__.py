"""Images as pixels: decoding, augmentation parameters, and the backends that apply them."""
