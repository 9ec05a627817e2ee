"""`export.py`: write a trained network as a static graph, verified."""

from paddleseg.utils import logger

from paddleseg_psp.cli import arguments
from paddleseg_psp.cli.device import set_up
from paddleseg_psp.cli.inputs import trained_model
from paddleseg_psp.cli.run import run
from paddleseg_psp.config import Config
from paddleseg_psp.deploy import export_bundle
from paddleseg_psp.deploy.bundle import DYNAMIC_SHAPE
from paddleseg_psp.errors import UserError


def main(argv=None):
    parser = arguments.parser(
        "Write a trained network as a static graph with deploy.yaml, verified against the network.",
        "model_path", "save_dir", "input_shape", "output_op",
        save_dir="./output/inference_model", device="cpu",
    )  # fmt: skip
    run(_export, parser.parse_args(argv))


def _export(args):
    config = Config(args.config, args.opts)
    shape = _input_shape(args.input_shape)
    set_up(args.device)
    model = trained_model(config, args.model_path)
    transforms = config.data.get("val_dataset", {}).get("transforms", [])
    config.build_transforms()  # refuses wrong ones before the work
    comparisons = export_bundle(model, args.save_dir, transforms, shape, args.output_op, config.palette())
    for item in comparisons:
        error = "" if item.error is None else f", relative error {item.error:.1e}"
        logger.info(
            f"Verified at {list(item.shape)}, oneDNN {'on' if item.onednn else 'off'}: {item.agreement:.4%} of the pixels "
            f"have the network's class{error}"
        )
    logger.info(f"The exported model is in {args.save_dir}")


def _input_shape(sizes):
    if sizes is None:
        return DYNAMIC_SHAPE
    if len(sizes) == 2:
        sizes = [1, 3, *sizes]
    if len(sizes) != 4 or any(size < 1 and size != -1 for size in sizes) or sizes[1] == -1:
        raise UserError(f"--input_shape takes N C H W (C known; -1 for what may vary) or H W, not {sizes}")
    return tuple(sizes)
