from paddleseg_psp.config.build import Config
from paddleseg_psp.config.yaml import apply_overrides, read_yaml, resolve_path

__all__ = ["Config", "apply_overrides", "read_yaml", "resolve_path"]
