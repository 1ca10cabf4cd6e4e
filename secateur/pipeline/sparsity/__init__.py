"""Structured sparsity: two of every four weights along the input channels stay."""

from secateur.pipeline.sparsity.discovery import Discovery
from secateur.pipeline.sparsity.sparsify import Sparsify
from secateur.pipeline.sparsity.two_of_four import sparse_layers, two_of_four

__all__ = ["Discovery", "Sparsify", "sparse_layers", "two_of_four"]
