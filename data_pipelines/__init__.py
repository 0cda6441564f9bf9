"""Images to shards to ordered bytes to augmented views: everything before the first layer of a model."""
