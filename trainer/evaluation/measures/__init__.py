"""What an evaluation counts: accuracies, their intervals and the calibration error."""
