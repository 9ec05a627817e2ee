"""Checkpoints of other frameworks."""

from paddleseg_psp.convert.conversion import Conversion, convert, convert_backbone, to_mmsegmentation

__all__ = ["Conversion", "convert", "convert_backbone", "to_mmsegmentation"]
