"""Where raw images and their labels come from."""
