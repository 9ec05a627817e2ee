"""The exported bundle: writing, verifying and running it."""

from paddleseg_psp.bundle.predictor import load_predictor
from paddleseg_psp.bundle.verify import verify_bundle
from paddleseg_psp.bundle.writing import export_bundle

__all__ = ["export_bundle", "load_predictor", "verify_bundle"]
