"""How the figures and tables of docs/ are made, from the public interface."""
