"""What does evaluation cost besides the network?

python dev/benchmarks/evaluation.py [--size 2048 1024] [--images 3] [--backbone ResNet50_vd]

Painted scenes of Cityscapes' size, PSPNet with random weights, whole images, no reading processes, so that everything is in
line: `evaluate` reads, decodes, checks and normalizes, calls the network, takes the classes of its logits and counts them.
"""

import argparse
import tempfile
import time

import numpy as np
import paddle
import paddleseg.transforms as T
from input_pipeline import make_data

from paddleseg_psp import registry
from paddleseg_psp.data import Cityscapes
from paddleseg_psp.engine import evaluate
from paddleseg_psp.models import PSPNet


class Timed(paddle.nn.Layer):
    """A network that notes the seconds of each call."""

    def __init__(self, network):
        super().__init__()
        self.network, self.seconds = network, []

    def forward(self, x):
        begun = time.perf_counter()
        outputs = self.network(x)
        outputs[0].numpy() if paddle.is_compiled_with_cuda() else None  # waits for the device
        self.seconds.append(time.perf_counter() - begun)
        return outputs


def main():
    parser = argparse.ArgumentParser(description="Time evaluation beside the network.")
    parser.add_argument("--size", type=int, nargs=2, default=[2048, 1024], help="width and height of the images")
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--backbone", default="ResNet50_vd")
    args = parser.parse_args()
    backbone = registry.build({"type": args.backbone, "output_stride": 8}, "backbone")
    model = Timed(PSPNet(19, backbone))
    with tempfile.TemporaryDirectory() as folder:
        make_data(folder, args.images + 1, args.size)
        dataset = Cityscapes([T.Normalize()], folder, mode="train")
        dataset.mode = "val"  # the noisy images, as evaluation takes them
        moments = []
        evaluate(model, dataset, print_detail=False, each=lambda *_: moments.append(time.perf_counter()))
    whole, network = np.diff(moments), np.array(model.seconds[1:])  # the first image warms up
    rest = whole - network
    print(
        f"{args.backbone}, {args.size[0]}x{args.size[1]}, an image: {whole.mean():.2f} s, of which the network "
        f"{network.mean():.2f} s and everything else {rest.mean() * 1e3:.0f} ms, {rest.mean() / network.mean():.1%} of it"
    )


if __name__ == "__main__":
    main()
