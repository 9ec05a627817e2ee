"""The public names of `paddleseg_psp.bundle`, by which exported networks have been written and run so far."""

from paddleseg_psp.bundle import export_bundle, load_predictor, verify_bundle

__all__ = ["export_bundle", "load_predictor", "verify_bundle"]
