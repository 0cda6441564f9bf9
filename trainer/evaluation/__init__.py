"""How good frozen features are, by methods that train nothing but a last layer."""
