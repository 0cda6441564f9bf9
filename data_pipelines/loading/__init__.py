"""Batches for training and evaluation: which samples a rank takes, and how they become tensors."""
