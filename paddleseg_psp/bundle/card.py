"""The model card of a bundle."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import nn

from paddleseg_psp.bundle.verify import Comparison, summary

_OUTPUTS = {
    "argmax": "classes [N, H, W] int32, and after them logits [N, classes, H, W] float32",
    "softmax": "probabilities, and after them logits, [N, classes, H, W] float32",
    "none": "logits [N, classes, H, W] float32",
}


def write_card(
    path: str,
    model: nn.Layer,
    description: dict,
    comparisons: Sequence[Comparison],
    metrics: dict | None,
    proof: Sequence[str] = (),
) -> None:
    """Writes what a bundle's user should know, as Markdown.

    Args:
        path: the file.
        model: the network.
        description: of deploy.yaml.
        comparisons: of `verify_bundle`.
        metrics: name and value, for each metric known.
        proof: further lines, after the comparisons.
    """
    parameters = sum(int(value.size) for value in model.parameters())
    backbone = type(model.backbone).__name__ if hasattr(model, "backbone") else None
    cost = f"{description['multiply_adds_per_pixel'] / 1e3:.0f} thousand multiply-adds a pixel"
    shape = ["any" if size == -1 else str(size) for size in description["input_shape"]]
    lines = [
        f"# {type(model).__name__}{f' with {backbone}' if backbone else ''}",
        "",
        f"- Input `x` [N, C, H, W] float32: {' × '.join(shape)}; what an image goes through first: "
        + (", ".join(item["type"] for item in description["transforms"]) or "nothing")
        + " (`deploy.yaml`, `transforms`). Images are read blue first and given to the network red first.",
        f"- Output: {_OUTPUTS[description['output_op']]}.",
        f"- How it looks at an image: {_views(description.get('test_config', {}))}.",
        f"- {parameters / 1e6:.2f} million parameters while training, kept here as {description['weights']}, "
        f"{cost}, exported by Paddle {paddle.__version__}.",
    ]
    if "mask_size" in description:
        lines.append("- The attention's mask is {}x{} positions of its map.".format(*description["mask_size"]))
    if "operators" in description:
        lines.append(
            f"- The graph has PSANet's operators. `load_predictor` brings them; where the package is not installed, "
            f"`paddle.base.core.load_op_meta_info_and_register_op` of the same Paddle takes `{description['operators']}`."
        )
    lines += ["", "## Metrics", ""]
    lines += [f"- {name}: {shown(value)}" for name, value in (metrics or {}).items()] or ["None are known for these weights."]
    lines += ["", "## Compared with the trained network", ""]
    if comparisons:
        lines += [
            "| run by | inputs | sizes | pixels with the same class | relative error |",
            "| --- | --- | --- | --- | --- |",
        ]
        for backend, inputs, sizes, agreement, error in summary(comparisons):
            lines.append(f"| {backend} | {inputs} | {sizes} | {agreement:.4%} | {error:.1e} |")
    else:
        lines.append("Not compared (exported with --no-verify).")
    lines += [*proof]
    lines += class_table(description.get("class_names"), description.get("palette"))
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def _views(options):
    """Returns in words what deploy.yaml says in test_config."""
    parts = []
    if options.get("is_slide"):
        window, step = ("x".join(map(str, options[key])) for key in ("crop_size", "stride"))
        parts.append(f"by windows of {window} pixels at steps of {step} (width x height), whose logits are averaged")
    if options.get("aug_eval"):
        flips = [name for name in ("horizontal", "vertical") if options.get(f"flip_{name}")]
        flipped = f" and {' and '.join(flips)} flips" if flips else ""
        parts.append(f"at the scales {', '.join(map(str, options['scales']))}{flipped}, whose probabilities are averaged")
    return " and ".join(parts or ["whole, once"]) + " (`deploy.yaml`, `test_config`; `load_predictor` does it)"


def class_table(class_names: Sequence[str] | None, palette: Sequence[Sequence[int]] | None) -> list[str]:
    """Returns the lines of a table of classes and their colors; no lines if the names are unknown."""
    if not class_names:
        return []
    rows = [
        f"| {index} | {name} | {', '.join(map(str, color))} |"
        for index, (name, color) in enumerate(zip(class_names, palette or [()] * len(class_names)))
    ]
    return ["", "## Classes", "", "| index | name | red, green, blue |", "| --- | --- | --- |", *rows]


def shown(value: object) -> str:
    """Returns a metric's value as the model card prints it."""
    return f"{value:.4f}" if isinstance(value, float) else str(value)
