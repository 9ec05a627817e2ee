"""The exported bundle: writing, verifying and running it."""

from paddleseg_psp.deploy.bundle import export_bundle
from paddleseg_psp.deploy.predictor import load_predictor
from paddleseg_psp.deploy.verify import verify_bundle

__all__ = ["export_bundle", "load_predictor", "verify_bundle"]
