from paddleseg_psp.engine.evaluator import evaluate
from paddleseg_psp.engine.predictor import predict
from paddleseg_psp.engine.trainer import train

__all__ = ["evaluate", "predict", "train"]
