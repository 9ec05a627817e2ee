"""The point-wise attention operator. Importing it compiles and loads nothing; see `paddleseg_psp.ops.build`."""

from paddleseg_psp.ops.psamask import attend, psa_attention, psa_mask

__all__ = ["attend", "psa_attention", "psa_mask"]
