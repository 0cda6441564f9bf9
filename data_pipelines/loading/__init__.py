"""Loaders for training and evaluation: which samples a rank reads, and how they become tensors."""
