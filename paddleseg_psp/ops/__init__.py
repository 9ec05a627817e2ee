"""The point-wise attention operator. Importing it compiles and loads nothing; see `paddleseg_psp.ops.build`."""

import warnings

warnings.filterwarnings("ignore", message="No ccache found")  # paddle says so whenever it is imported

from paddleseg_psp.ops.psamask import psa_attention, psa_mask  # noqa: E402

__all__ = ["psa_attention", "psa_mask"]
