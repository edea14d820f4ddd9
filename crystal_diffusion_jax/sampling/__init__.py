"""The predictor-corrector sampler and its output folder."""
