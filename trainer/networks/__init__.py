"""Backbones, heads, the momentum (EMA) encoder, and the weights that they start from."""
