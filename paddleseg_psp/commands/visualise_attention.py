"""Draw PSANet's attention of a point, or the levels of PSPNet's pyramid.

python tools/visualise_attention.py --config configs/psanet/psanet_resnet18_demo.yml \
    --model_path output/best_model/model.pdparams --image_path data/demo_cityscapes/leftImg8bit/val --point 128 90

For PSANet: the point (white cross), what it collects from each position, and what it distributes to each. For PSPNet: the
response of each level in each of its cells. Blue is least and red is most, in each picture separately. If the configuration
tests by windows, the window nearest to the point is shown.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import paddle
from paddleseg.transforms import Compose

from paddleseg_psp.commands import arguments
from paddleseg_psp.commands.device import set_up
from paddleseg_psp.commands.inputs import chosen_views, trained_model
from paddleseg_psp.commands.run import run
from paddleseg_psp.config import Config
from paddleseg_psp.data import read_image
from paddleseg_psp.data.reading.images import find_images
from paddleseg_psp.engine.inference import predict_classes
from paddleseg_psp.engine.views import OPTIONS
from paddleseg_psp.errors import UserError
from paddleseg_psp.files import atomic_path
from paddleseg_psp.models.probe import attention_maps, pyramid_maps
from paddleseg_psp.visual import color_map, draw_panels, heat, overlay, viewable, write_image


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments.parser(__doc__.splitlines()[0], "model_path", "image_path", *OPTIONS, device="cpu")
    parser.add_argument("--point", nargs=2, type=int, metavar=("X", "Y"), help="column and row; default: the image's center")
    parser.add_argument("--save_path", default="attention.png", help="the picture to write")
    run(_visualise, parser, argv)


def _visualise(args):
    if args.image_path is None:
        raise UserError("--image_path is missing: name an image or a folder, of which the first few are taken")
    config = Config(args.config, args.opts)
    set_up(args.device)
    network, views = trained_model(config, args.model_path), chosen_views(config, args)
    network.eval()
    compose, colors = Compose(config.build_transforms(), img_channels=config.img_channels()), color_map(config.palette())
    rows = []
    for path in find_images(args.image_path)[0][:4]:
        image = read_image(path, config.img_channels(), config.max_value())
        sample = compose({"img": image.astype("float32"), "gt_fields": []})
        tensor = paddle.to_tensor(sample["img"][np.newaxis])
        with paddle.no_grad():
            classes = predict_classes(network, tensor, sample["trans_info"], views)
        panels = [("prediction", overlay(viewable(image), classes, colors))]
        rows.append(panels + _panels(network, panels[0][1], viewable(image), tensor, args.point, views))
    with atomic_path(args.save_path) as target:
        write_image(target, draw_panels(rows))
    print(f"The picture is {args.save_path}")


def _panels(network, prediction, image, tensor, point, views):
    """Returns (title, picture) pairs of what the network's context module looks at; marks the point in the prediction."""
    sizes = list(zip(image.shape[:2], tensor.shape[2:]))  # height and width, of the picture and of the network's input
    place = [own // 2 for own, _ in sizes] if point is None else point[::-1]
    if not all(0 <= own < side for own, (side, _) in zip(place, sizes)):
        raise UserError(
            f"--point {place[1]} {place[0]} is outside an image of {image.shape[1]}x{image.shape[0]} (width x height)"
        )
    scaled = [own * whole // side for own, (side, whole) in zip(place, sizes)]
    part = views.part_with(tensor.shape[2:], scaled)
    shown = tuple(slice(own.start * side // whole, own.stop * side // whole) for own, (side, whole) in zip(part, sizes))
    tensor, scaled = tensor[:, :, part[0], part[1]], [own - side.start for own, side in zip(scaled, part)]

    def drawn(values, mark=None, smooth=True):
        picture = image.copy()
        picture[shown] = heat(np.ascontiguousarray(image[shown]), values, mark, smooth)
        return picture

    if not hasattr(network, "psa"):
        levels = pyramid_maps(network, tensor)
        return [(f"{bins}x{bins} cells", drawn(values, smooth=False)) for bins, values in levels.items()]
    if network.psa is None:
        raise UserError("the network has no attention (use_psa: false)")
    maps = attention_maps(network, tensor, scaled)
    cv2.drawMarker(prediction, place[::-1], (255, 255, 255), cv2.MARKER_CROSS, max(8, image.shape[0] // 16), 2)
    mark = [own - side.start for own, side in zip(place, shown)]
    return [(f"{direction}s", drawn(values, mark)) for direction, values in maps.items()]
