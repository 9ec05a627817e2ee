"""PSPNet and PSANet for PaddlePaddle: training, evaluation, export and deployment."""

from paddleseg_psp import environment

__version__ = "0.1.0"

environment.configure()
