"""The forward processes and their reversal: pure functions without parameters.

Throughout, `t` and `s` are integer times in 0..T, one per crystal; 0 means clean, and s < t is the
time that a reverse step goes to.
"""
