"""The earlier name of `paddleseg_psp.bundle`."""

from paddleseg_psp.bundle import export_bundle, load_predictor, verify_bundle

__all__ = ["export_bundle", "load_predictor", "verify_bundle"]
