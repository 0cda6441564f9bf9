"""Inference with a trained backbone: load it from a checkpoint or an export, and embed images."""
