"""What a network looks at: PSANet's attention of a point, the levels of PSPNet's pyramid.

python tools/visualise_attention.py --config configs/psanet/psanet_resnet18_demo.yml \
    --model_path output/best_model/model.pdparams --image_path data/demo_cityscapes/leftImg8bit/val --point 128 90

For PSANet: the point (white cross), what it collects from where, and where it distributes to. For PSPNet: how strongly each
level answers in each of its cells. Blue is least, red most, in each picture by itself.
"""

import cv2
import numpy as np
import paddle
from paddleseg.transforms import Compose

from paddleseg_psp.cli import arguments
from paddleseg_psp.cli.device import set_up
from paddleseg_psp.cli.inputs import trained_model
from paddleseg_psp.cli.run import run
from paddleseg_psp.config import Config
from paddleseg_psp.data import read_image
from paddleseg_psp.data.images import find_images
from paddleseg_psp.errors import UserError
from paddleseg_psp.files import atomic_path
from paddleseg_psp.visual import color_map, draw_panels, overlay, viewable, write_image
from paddleseg_psp.visual.context import attention_maps, heat, pyramid_maps


def main(argv=None):
    parser = arguments.parser(__doc__.splitlines()[0], "model_path", "image_path", device="cpu")
    parser.add_argument("--point", nargs=2, type=int, metavar=("X", "Y"), help="column and row; by default the image's centre")
    parser.add_argument("--save_path", default="attention.png", help="the picture to write")
    run(_visualise, parser.parse_args(argv))


def _visualise(args):
    if args.image_path is None:
        raise UserError("--image_path is missing: name an image or a folder, of which the first few are taken")
    config = Config(args.config, args.opts)
    set_up(args.device)
    network = trained_model(config, args.model_path)
    network.eval()
    compose, colors = Compose(config.build_transforms(), img_channels=config.img_channels()), color_map(config.palette())
    rows = []
    for path in find_images(args.image_path)[0][:4]:
        image = read_image(path, config.img_channels())
        tensor = paddle.to_tensor(compose({"img": image.astype("float32"), "gt_fields": []})["img"][np.newaxis])
        rows.append(_panels(network, viewable(image), tensor, args.point, colors))
    with atomic_path(args.save_path) as target:
        write_image(target, draw_panels(rows))
    print(f"The picture is {args.save_path}")


def _panels(network, image, tensor, point, colors):
    """Returns (title, picture) pairs: the image with its prediction, and what the network's context module looks at."""
    height, width = image.shape[:2]
    with paddle.no_grad():
        classes = network(tensor)[0].argmax(1).numpy()[0].astype(np.uint8)
    classes = cv2.resize(classes, (width, height), interpolation=cv2.INTER_NEAREST)
    place = (height // 2, width // 2) if point is None else (point[1], point[0])
    panels = [("prediction", overlay(image, classes, colors))]
    if hasattr(network, "psa"):
        if not (0 <= place[0] < height and 0 <= place[1] < width):
            raise UserError(f"--point {place[1]} {place[0]} is outside an image of {width}x{height} (width x height)")
        if network.psa is None:
            raise UserError("the network has no attention (use_psa: false)")
        scaled = [own * whole // side for own, whole, side in zip(place, tensor.shape[2:], (height, width))]
        maps = attention_maps(network, tensor, scaled)
        cv2.drawMarker(panels[0][1], place[::-1], (255, 255, 255), cv2.MARKER_CROSS, max(8, height // 16), 2)
        return panels + [(f"{direction}s", heat(image, values, place)) for direction, values in maps.items()]
    levels = pyramid_maps(network, tensor)
    return panels + [(f"{bins}x{bins} cells", heat(image, values, smooth=False)) for bins, values in levels.items()]


if __name__ == "__main__":
    main()
