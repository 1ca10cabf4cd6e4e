"""Compact storage: shared weights, entropy coding, and products with what stays coded."""

from secateur.pipeline.packing.archive import Archive, read_archive
from secateur.pipeline.packing.forms import FORMS
from secateur.pipeline.packing.pack import Pack, pack, unpack
from secateur.pipeline.packing.product import CodedMatrix
from secateur.pipeline.packing.sharing import SHARINGS

__all__ = ["FORMS", "SHARINGS", "Archive", "CodedMatrix", "Pack", "pack", "read_archive", "unpack"]
