"""Image decoding, augmentation parameters, and the backends that apply them."""
