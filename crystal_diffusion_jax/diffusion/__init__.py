"""The forward processes and their reversal: pure functions, no parameters."""
