from paddleseg_psp.models import backbones
from paddleseg_psp.models.psanet import PSANet
from paddleseg_psp.models.pspnet import PSPNet

__all__ = ["PSANet", "PSPNet", "backbones"]
