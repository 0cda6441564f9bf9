"""Sources of raw images and labels."""
