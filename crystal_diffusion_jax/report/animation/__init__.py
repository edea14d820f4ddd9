"""Moving pictures of how a crystal came out of the noise."""
