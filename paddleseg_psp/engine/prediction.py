"""Predictions of a network for images, as pictures."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import paddle
from paddle import nn
from paddleseg.transforms import Compose

from paddleseg_psp.data import read_image
from paddleseg_psp.data.reading.images import output_names, require_no_overwriting
from paddleseg_psp.engine.inference import predict_classes
from paddleseg_psp.engine.views import Views
from paddleseg_psp.files import atomic_path, require_writable
from paddleseg_psp.log import logger
from paddleseg_psp.progress import track
from paddleseg_psp.visual import color_map, draw_legend, overlay, save_classes, save_index_png, viewable, write_image


@paddle.no_grad()
def predict(
    model: nn.Layer,
    transforms: list,
    image_list: list[str],
    image_dir: str | None = None,
    save_dir: str = "output",
    views: Views | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    class_names: Sequence[str] | None = None,
    img_channels: int = 3,
    max_value: float | None = None,
    save_ids: bool = False,
    **options: Any,
) -> None:
    """Writes class maps of images, and legend.png, which has the classes that occur.

    <save_dir>/added_prediction/ has overlays, <save_dir>/pseudo_color_prediction/ PNGs whose pixels are class indices, shown in
    the palette's colors.

    Args:
        model: returns a list whose first entry has the logits.
        transforms: what images go through, as in evaluation.
        image_list: paths.
        image_dir: predictions keep the images' paths relative to it; None takes the folder that all share.
        views: how the network sees an image; by default the whole image, once.
        palette: a (red, green, blue) color for each class; None takes PaddleSeg's colors.
        class_names: a name for each class, or None.
        img_channels: channels of the images.
        max_value: value of a white pixel, see `read_image`.
        save_ids: write <save_dir>/class_ids/ too: gray PNGs of class indices, for programs that resolve palettes.
        options: PaddleSeg's arguments in place of views, as for `evaluate`, with aug_pred for aug_eval.
    """
    views = Views.chosen(views, {"aug_eval" if name == "aug_pred" else name: value for name, value in options.items()})
    require_writable(save_dir)
    model.eval()
    compose, colors = Compose(transforms, img_channels=img_channels), color_map(palette)
    kinds = ("added_prediction", "pseudo_color_prediction", "class_ids")
    overlays, indices, ids = (os.path.join(save_dir, name) for name in kinds)
    logger.info("Start to predict...")
    names = output_names(image_list, os.path.dirname(image_list[0]) if image_dir is None else image_dir)
    overlaid = [os.path.join(overlays, _picture(name, path)) for name, path in zip(names, image_list)]
    maps = [os.path.join(folder, f"{name}.png") for folder in (indices, ids) for name in names]
    require_no_overwriting([*overlaid, *maps], image_list)
    pixels: Counter = Counter()
    for path, name, place in zip(track(image_list, len(image_list), "[PREDICT]"), names, overlaid):
        image = read_image(path, img_channels, max_value)
        sample = compose({"img": image.astype("float32"), "gt_fields": []})
        network_input = paddle.to_tensor(sample["img"][np.newaxis])
        pred = predict_classes(model, network_input, sample["trans_info"], views)
        pixels.update(dict(enumerate(np.bincount(pred.ravel()).tolist())))
        with atomic_path(place) as target:
            write_image(target, overlay(viewable(image), pred, colors))
        with atomic_path(os.path.join(indices, f"{name}.png")) as target:
            save_index_png(target, pred, colors)
        if save_ids:
            with atomic_path(os.path.join(ids, f"{name}.png")) as target:
                save_classes(target, pred)
    with atomic_path(os.path.join(save_dir, "legend.png")) as target:
        draw_legend(_legend(pixels, class_names, colors), target)
    logger.info(f"Predicted images are saved in {overlays} and {indices} .")


def _picture(name, path):
    """Returns the name of an image's overlay, in the image's own format if OpenCV can write it."""
    ending = os.path.splitext(path)[1]
    ending = ending if cv2.haveImageWriter(f"x{ending}") else ".png"
    return name if name.endswith(ending) else name + ending


def _legend(pixels, class_names, colors):
    """Returns the text and the color of each class that occurs, the most frequent first, with its share of the pixels."""
    total = sum(pixels.values())
    names = {index: str(name) for index, name in enumerate(class_names or ())}
    return [
        (f"{names.get(index, index)} {count / total:.1%}", colors[index % len(colors)])
        for index, count in pixels.most_common()
        if count
    ]
