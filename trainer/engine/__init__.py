"""The training step under DeepSpeed: ZeRO stages, optimizers, the guard against broken steps."""
