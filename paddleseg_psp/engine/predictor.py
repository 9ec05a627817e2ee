"""Predictions of a network for images, as pictures."""

import os

import cv2
import numpy as np
import paddle
from paddleseg.transforms import Compose
from paddleseg.utils import logger

from paddleseg_psp.data import read_image
from paddleseg_psp.data.images import output_names
from paddleseg_psp.engine.inference import predict_classes
from paddleseg_psp.files import atomic_path, require_writable
from paddleseg_psp.progress import track
from paddleseg_psp.visual import color_map, overlay, save_index_png


@paddle.no_grad()
def predict(
    model,
    transforms,
    image_list,
    image_dir=None,
    save_dir="output",
    aug_pred=False,
    scales=1.0,
    flip_horizontal=False,
    flip_vertical=False,
    is_slide=False,
    stride=None,
    crop_size=None,
    palette=None,
):
    """Writes <save_dir>/added_prediction/ (overlays) and <save_dir>/pseudo_color_prediction/ (palette PNGs of class indices).

    Args:
        model (Layer): returns a list whose first entry has the logits.
        transforms (list): what images go through, as in evaluation.
        image_list (list of str): paths.
        image_dir (str|None): predictions keep the images' paths relative to it; None takes the folder that all share.
        aug_pred, scales, flip_horizontal, flip_vertical, is_slide, stride, crop_size: see `evaluate`.
        palette: a (red, green, blue) colour for each class; None takes PaddleSeg's colours.
    """
    require_writable(save_dir)
    model.eval()
    compose, colors = Compose(transforms), color_map(palette)
    overlays, indices = (os.path.join(save_dir, name) for name in ("added_prediction", "pseudo_color_prediction"))
    logger.info("Start to predict...")
    names = output_names(image_list, os.path.dirname(image_list[0]) if image_dir is None else image_dir)
    for path, name in zip(track(image_list, len(image_list), "[PREDICT]"), names):
        image = read_image(path)
        sample = compose({"img": image.astype("float32"), "gt_fields": []})
        pred = predict_classes(
            model,
            paddle.to_tensor(sample["img"][np.newaxis]),
            sample["trans_info"],
            aug_pred,
            scales,
            flip_horizontal,
            flip_vertical,
            is_slide,
            stride,
            crop_size,
        ).astype(np.uint8)
        ending = os.path.splitext(path)[1]
        with atomic_path(os.path.join(overlays, name if name.endswith(ending) else name + ending)) as target:
            cv2.imwrite(target, overlay(image, pred, colors))
        with atomic_path(os.path.join(indices, f"{name}.png")) as target:
            save_index_png(target, pred, colors)
    logger.info(f"Predicted images are saved in {overlays} and {indices} .")
