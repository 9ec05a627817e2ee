"""How many images a second does one process read, augment and normalize, beside paddleseg's own pipeline?

python dev/benchmarks/input_pipeline.py [--size 2048 1024] [--crop 1024 512] [--images 8] [--rounds 3] [--workers 1 2]

Painted scenes of Cityscapes' size with camera-like noise, the transforms of configs/_base_/cityscapes.yml. paddleseg reads the
same files through its own data set and transforms, and so does mmsegmentation, if installed, without normalizing, which it
leaves to the device. All in one process, in turns, with one thread of OpenCV; then ours by reading processes.
"""

import argparse
import glob
import os
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np
import paddleseg.datasets
import paddleseg.transforms as T

from paddleseg_psp.data import CheckedDataset, Cityscapes, SeededDataset, TrainingSampler, load_batches
from paddleseg_psp.data.transforms import RandomDistort, RandomPaddingCrop

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))


def transforms(crop, distort, size):
    return [
        T.ResizeStepScaling(0.5, 2.0, 0.25),
        crop(crop_size=size),
        T.RandomHorizontalFlip(),
        distort(brightness_range=0.4, contrast_range=0.4, saturation_range=0.4),
        T.Normalize(),
    ]


def mmsegmentation(folder, size, crop):
    """Returns mmsegmentation's data set with the recipe of its Cityscapes configurations, or None."""
    try:
        from mmseg.datasets import CityscapesDataset
        from mmseg.utils import register_all_modules
    except ImportError as error:
        print(f"mmsegmentation is left out: {error}")
        return None
    register_all_modules()
    steps = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations"},
        {"type": "RandomResize", "scale": tuple(size), "ratio_range": (0.5, 2.0), "keep_ratio": True},
        {"type": "RandomCrop", "crop_size": tuple(crop[::-1]), "cat_max_ratio": 1.0},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "PhotoMetricDistortion"},
        {"type": "PackSegInputs"},
    ]
    prefix = {"img_path": "leftImg8bit/train", "seg_map_path": "gtFine/train"}
    return CityscapesDataset(data_root=folder, data_prefix=prefix, pipeline=steps)


def make_data(folder, images, size):
    """Paints scenes and adds noise, without which PNG files would be small and read too fast."""
    command = [sys.executable, "tools/make_demo_data.py", "--save_dir", folder, "--train", images, "--val", 1, "--size", *size]
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    numbers = np.random.RandomState(0)
    for path in glob.glob(os.path.join(folder, "leftImg8bit", "train", "*", "*.png")):
        image = cv2.imread(path)
        noisy = image + numbers.normal(0, 3, image.shape)
        cv2.imwrite(path, np.clip(noisy, 0, 255).astype(np.uint8))


def seconds_each(dataset, keys):
    begun = time.perf_counter()
    for key in keys:
        sample = dataset[key]
        np.ascontiguousarray(sample["img"] if "img" in sample else sample["inputs"])  # as making a batch does
    return (time.perf_counter() - begun) / len(keys)


def main():
    parser = argparse.ArgumentParser(description="Time reading and augmenting.")
    parser.add_argument("--size", type=int, nargs=2, default=[2048, 1024], help="width and height of the images")
    parser.add_argument("--crop", type=int, nargs=2, default=[1024, 512], help="width and height of the crops")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    args = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        make_data(folder, args.images, args.size)
        own = SeededDataset(CheckedDataset(Cityscapes(transforms(RandomPaddingCrop, RandomDistort, args.crop), folder)))
        theirs = paddleseg.datasets.Cityscapes(
            transforms(T.RandomPaddingCrop, T.RandomDistort, args.crop), folder, mode="train"
        )
        others = {"paddleseg": theirs, "mmsegmentation": mmsegmentation(folder, args.size, args.crop)}
        others = {name: dataset for name, dataset in others.items() if dataset is not None}
        results = {name: [] for name in ("this package", *others)}
        for turn in range(args.rounds):
            keys = [(index, turn * args.images + index) for index in range(args.images)]
            results["this package"].append(seconds_each(own, keys))
            for name, dataset in others.items():
                np.random.seed(turn)
                results[name].append(seconds_each(dataset, range(args.images)))
        size, crop = ("x".join(map(str, value)) for value in (args.size, args.crop))
        print(f"{size} PNG, crop {crop}, one process, images a second (median of {args.rounds} rounds):")
        rates = {name: 1 / np.median(values) for name, values in results.items()}
        for name, rate in rates.items():
            print(f"  {name:<14} {rate:6.1f}   {rates['this package'] / rate:.2f} times as many here")
        decode = min(_timed(lambda: own.dataset.read(0)) for _ in range(5))
        print(f"decoding and checking alone allow {1 / decode:.1f} images a second")
        for workers in args.workers:
            steps = range(1, 8 * args.rounds + 1)
            batches = load_batches(own, TrainingSampler(args.images, 2, steps, 0), workers)
            next(batches)
            begun = time.perf_counter()
            count = 2 * sum(1 for _ in batches)
            print(f"{workers} reading processes: {count / (time.perf_counter() - begun):.1f} images a second")


def _timed(function):
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
