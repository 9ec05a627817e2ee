"""Trains a network without batch normalization; the parts of test_distributed.py that run in each process.

Arguments: configuration, folder, what goes wrong: nothing, nan (in the second process), killed (the second process).
"""

import argparse
import os
import signal

import paddle

from paddleseg_psp.commands.device import set_up
from paddleseg_psp.commands.run import run
from paddleseg_psp.config import Config
from paddleseg_psp.engine import distributed
from paddleseg_psp.losses import CrossEntropyLoss
from tests.helpers import TINY, run_training


class Failing(paddle.nn.Layer):
    """Cross-entropy that goes wrong in the second process when it is called for the fourth time."""

    def __init__(self, what):
        super().__init__()
        self.loss, self.what, self.calls = CrossEntropyLoss(avg_non_ignore=False), what, 0

    def forward(self, logits, label):
        self.calls += 1
        wrong = self.calls == 4 and distributed.rank() == 1
        if wrong and self.what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return self.loss(logits, label) * (float("nan") if wrong and self.what == "nan" else 1)


def main(args):
    set_up("cpu", seed=3)
    config = Config(args.path, [TINY, "model.dropout=0"])
    losses = [(1, Failing(args.what)), (0.4, CrossEntropyLoss(avg_non_ignore=False))]
    run_training(config, args.folder, with_evaluation=False, losses=losses, save_interval=5, seed=4)
    print(f"process {distributed.rank()} has ended well", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("path", "folder", "what"):
        parser.add_argument(name)
    run(main, parser, None)
