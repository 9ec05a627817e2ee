"""`export.py`: write a trained network as a static graph, verified."""

from __future__ import annotations

from collections.abc import Sequence

from paddleseg_psp.bundle import export_bundle
from paddleseg_psp.bundle.precision import cost_table, precision_costs, require_cheap
from paddleseg_psp.bundle.verify import summary
from paddleseg_psp.commands import arguments
from paddleseg_psp.commands.device import set_up
from paddleseg_psp.commands.inputs import trained_model
from paddleseg_psp.commands.run import run
from paddleseg_psp.config import Config
from paddleseg_psp.engine.checkpoint import metrics_of
from paddleseg_psp.engine.views import Views
from paddleseg_psp.environment import has_bfloat16
from paddleseg_psp.errors import UserError
from paddleseg_psp.log import logger


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments.parser(
        "Write a trained network as a static graph with deploy.yaml, verified against the network.",
        "model_path", "save_dir", "input_shape", "output_op", "onnx", "half_weights", "verify",
        "verify_precision", "most_changed",
        save_dir="./output/inference_model", device="cpu",
    )  # fmt: skip
    run(_export, parser, argv)


def _export(args):
    config = Config(args.config, args.opts)
    shape = _input_shape(args.input_shape, config.img_channels())
    views = Views.from_options(config.test_config(), f"{config.path}: test_config")
    set_up(args.device)
    model = trained_model(config, args.model_path)
    transforms = config.data.get("val_dataset", {}).get("transforms", [])
    config.build_transforms()  # refuses wrong ones before the work
    comparisons = export_bundle(
        model,
        args.save_dir,
        transforms,
        shape,
        args.output_op,
        config.palette(),
        config.class_names(),
        config.ignore_index(),
        onnx=args.onnx,
        half_weights=args.half_weights,
        verify=args.verify,
        images=_images(config) if args.verify else (),
        metrics=metrics_of(args.model_path),
        views=views,
        max_value=config.max_value(),
        prove=_bfloat16_proof(config, args.most_changed) if args.verify_precision else None,
    )
    for backend, inputs, sizes, agreement, error in summary(comparisons):
        logger.info(
            f"Verified in {backend} on {inputs} inputs ({sizes}): at least {agreement:.4%} of the pixels have the network's "
            f"class, relative error at most {error:.1e}"
        )
    if not args.verify:
        logger.warning("Not verified: whether the exported model computes what the network computes is unknown")
    logger.info(f"The exported model is in {args.save_dir}")


def _bfloat16_proof(config, most_changed):
    """Returns what measures bfloat16 on the validation set, refuses it above a share of changed pixels, and describes it."""
    if not has_bfloat16():  # it would be emulated, or ignored: what it changes would not be what users see
        raise UserError("--verify_precision bf16 needs a processor with bfloat16 (AVX512_BF16 or AMX); export on such a one")
    dataset = config.build_dataset("val_dataset")

    def prove(folder):
        costs = precision_costs(folder, dataset)
        require_cheap(costs, most_changed)
        for cost in costs:
            logger.info(
                f"In bfloat16 {cost.changed:.3%} of the pixels of {cost.images} images change their class in {cost.backend}, "
                f"mIoU {cost.miou[0]:.4f} to {cost.miou[1]:.4f}"
            )
        return cost_table(costs)

    return prove


def _images(config):
    """Returns a few images of the validation set to verify with, or none where it is not there."""
    try:
        files = config.build_dataset("val_dataset").file_list
    except UserError as error:
        logger.info(f"No images to verify with, made-up inputs only: {error}")
        return []
    return [files[index][0] for index in sorted({0, len(files) // 2, len(files) - 1})]


def _input_shape(sizes, channels):
    if sizes is None:
        return (-1, channels, -1, -1)
    if len(sizes) == 2:
        sizes = [1, channels, *sizes]
    if len(sizes) != 4 or any(size < 1 and size != -1 for size in sizes) or sizes[1] == -1:
        raise UserError(f"--input_shape takes N C H W (C known; -1 for what may vary) or H W, not {sizes}")
    return tuple(sizes)
