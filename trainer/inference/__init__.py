"""A trained backbone at work: loaded from a checkpoint or an export, and used to embed images."""
