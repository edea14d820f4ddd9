"""Command-line programs: flags in, library calls out."""

import os

# Before JAX is loaded. At every program read from the compilation cache XLA would print a page on
# tuning preferences that it mistakes for missing instructions (jax-ml/jax#38445).
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
