"""Compress trained PyTorch networks into deployable engines and prove the gain."""

__version__ = "0.1.0"
