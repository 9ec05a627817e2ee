"""The keys of a configuration, and checks of their values before anything is built."""

from __future__ import annotations

from paddleseg_psp.config import schedules
from paddleseg_psp.config.yaml import LENGTH, require_number
from paddleseg_psp.errors import UserError, suggestion

REQUIRED = ("batch_size", "train_dataset", "optimizer", "lr_scheduler", "loss", "model")
KEYS = {
    "batch_size": "batch size of each GPU or process",
    "iters": "total number of iterations",
    "epochs": "in place of iters: passes over the data; an incomplete last batch is dropped",
    "accumulate": "batches whose gradients are averaged for one iteration; 1 by default",
    "train_dataset": "`type`, its arguments, and `transforms`, a list of mappings with `type`",
    "val_dataset": "the same, for evaluation; its transforms are also used in prediction and deployment",
    "test_config": "how the network sees images, in evaluation, prediction and bundles: aug_eval, scales, flip_horizontal, "
    "flip_vertical, is_slide, crop_size, stride",
    "model": "`type`, its arguments, and `backbone`, a mapping with `type`",
    "loss": "`types`, one loss for each output of the network, or one for all, and `coef`, their weights",
    "optimizer": "`type` (SGD, Adam, AdamW, … of PaddleSeg), its arguments, grad_clip_cfg, and custom_cfg: `name` (a part of "
    "parameters' names), `lr_mult`, `weight_decay_mult`",
    "lr_scheduler": "`type` of paddle.optimizer.lr, its arguments, `warmup_iters` and `warmup_start_lr`",
    "freeze_batch_norm": "`backbone` or `all`: normalizations whose statistics and parameters stay fixed",
    "plugins": "Python files, relative to the configuration, that register components",
}
MAPPINGS = ("train_dataset", "val_dataset", "test_config", "optimizer", "lr_scheduler", "loss", "model")
GROUP = ("name", "lr_mult", "weight_decay_mult")  # of parameters with a learning rate or weight decay of their own
OPTIMIZER_NUMBERS = ("weight_decay", "momentum", "beta1", "beta2", "epsilon", "rho", "clip_norm", *GROUP[1:])


def check_kinds(data: dict, path: str) -> dict:
    """Returns the mapping of a configuration without its empty keys; names of classes in it become texts.

    Args:
        data: as `read_yaml` returns it.
        path: of the file, for messages.

    Raises:
        UserError: an unknown or missing key, or a value that is not the mapping or list that belongs there.
    """
    for key in data:
        if key not in KEYS:
            raise UserError(f"{path}: {key}: unknown key{suggestion(key, KEYS)}")
    for key in REQUIRED:
        if key not in data:
            raise UserError(f"{path}: the key {key!r} is missing")
    data = {key: value for key, value in data.items() if value is not None or key in REQUIRED}
    data.setdefault("accumulate", 1)
    for key in MAPPINGS:
        if not isinstance(data.get(key, {}), dict):
            raise UserError(f"{path}: {key}: expected a mapping, found {data[key]!r}")
    _require_list(data, "plugins", f"{path}: ")
    for key in ("train_dataset", "val_dataset"):
        _check_dataset(data.get(key, {}), f"{path}: {key}")
    return data


def _check_dataset(dataset, where):
    if dataset.get("transforms", ()) is None:
        dataset["transforms"] = []
    _require_list(dataset, "transforms", f"{where}.")
    names = dataset.get("class_names")
    if isinstance(names, list):
        if no_names := [name for name in names if name is None or isinstance(name, bool)]:
            found = f"found {no_names[0]!r}, as YAML reads yes, no, on, off and null: put it in quotes"
            raise UserError(f"{where}.class_names: expected names, {found}")
        dataset["class_names"] = list(map(str, names))


def check_numbers(data: dict, path: str) -> None:
    """Raises UserError for a value that is not a number, or one that no training takes."""
    if len(length := [key for key in LENGTH if key in data]) != 1:
        found = " and ".join(length) or "none"
        raise UserError(f"{path}: expected one of the keys 'iters' and 'epochs', found {found}")
    for key in (*length, "batch_size", "accumulate"):
        require_number(data[key], f"{path}: {key}", least=1, whole=True)
    schedules.require_numbers(data["lr_scheduler"], f"{path}: lr_scheduler")
    _check_optimizer(data["optimizer"], f"{path}: optimizer.")
    _require_list(data["loss"], "coef", f"{path}: loss.")
    for index, weight in enumerate(data["loss"].get("coef", [])):
        require_number(weight, f"{path}: loss.coef.{index}")


def _check_optimizer(optimizer, where):
    if optimizer.get("custom_cfg") is not None:
        _require_list(optimizer, "custom_cfg", where)
    parts = {"": optimizer, "grad_clip_cfg.": optimizer.get("grad_clip_cfg")}
    for index, group in enumerate(optimizer.get("custom_cfg") or ()):
        parts[f"custom_cfg.{index}."] = group
    for prefix, part in parts.items():
        for key in OPTIMIZER_NUMBERS:
            if isinstance(part, dict) and part.get(key) is not None:
                require_number(part[key], f"{where}{prefix}{key}", least=0)


def _require_list(mapping, key, where):
    if not isinstance(mapping.get(key, []), list):
        raise UserError(f"{where}{key}: expected a list, found {mapping[key]!r}")
