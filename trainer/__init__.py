"""What is learned, and how a step of it runs."""
