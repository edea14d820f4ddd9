"""How the figures, tables and reference pages of docs/ are made, from the public interface."""
