"""Loss, train step, checkpoints and the training loop."""
