from paddleseg_psp.losses.cross_entropy import CrossEntropyLoss, OhemCrossEntropyLoss

__all__ = ["CrossEntropyLoss", "OhemCrossEntropyLoss"]
