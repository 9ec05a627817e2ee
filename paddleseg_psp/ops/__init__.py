"""The operators of point-wise spatial attention. Importing them compiles and loads nothing; see `paddleseg_psp.ops.library`."""

from paddleseg_psp.ops.psamask import psa_attention, psa_mask

__all__ = ["psa_attention", "psa_mask"]
