from paddleseg_psp.engine.evaluator import evaluate
from paddleseg_psp.engine.prediction import predict
from paddleseg_psp.engine.trainer import RunOptions, train
from paddleseg_psp.engine.views import Views

__all__ = ["RunOptions", "Views", "evaluate", "predict", "train"]
