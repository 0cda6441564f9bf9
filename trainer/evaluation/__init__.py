"""Evaluation of backbones: kNN, retrieval, linear classifiers and fine-tuning."""
