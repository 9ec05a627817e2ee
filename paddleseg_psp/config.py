"""Configuration: a YAML file with inheritance and overrides, checked, and the components built from it."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from paddle import nn
from paddle.io import Dataset
from paddle.optimizer import Optimizer
from paddle.optimizer.lr import LRScheduler
from paddleseg.utils import logger as paddleseg_logger

import paddleseg_psp.data  # these three register their components
import paddleseg_psp.losses
import paddleseg_psp.models  # noqa: F401
from paddleseg_psp import registry, schedules
from paddleseg_psp.data.agreement import require_agreement, require_classes
from paddleseg_psp.data.class_weights import CLASS_WEIGHTS, count_classes
from paddleseg_psp.errors import UserError
from paddleseg_psp.log import logger
from paddleseg_psp.losses.requirements import check_loss
from paddleseg_psp.models.layers import freeze_batch_norm
from paddleseg_psp.models.weights import harmless_copy
from paddleseg_psp.shipped import shipped
from paddleseg_psp.yaml_files import LENGTH, apply_overrides, dump, read_yaml, require_number

_REQUIRED = ("batch_size", "train_dataset", "optimizer", "lr_scheduler", "loss", "model")
KEYS = {
    "batch_size": "images that a card takes at once",
    "iters": "iterations in all",
    "epochs": "in place of iters: times that all images are seen, each ending with its last whole iteration",
    "accumulate": "batches whose gradients are averaged for one iteration; 1 by default",
    "train_dataset": "`type`, its arguments, and `transforms`, a list of mappings with `type`",
    "val_dataset": "the same, for evaluation; its transforms are also those of prediction and deployment",
    "test_config": "how the network looks at images, in evaluation, prediction and bundles: aug_eval, scales, flip_horizontal, "
    "flip_vertical, is_slide, crop_size, stride",
    "model": "`type`, its arguments, and `backbone`, a mapping with `type`",
    "loss": "`types`, a loss for each output of the network, or one for all, and `coef`, their weights",
    "optimizer": "`type` (SGD, Adam, AdamW, … of PaddleSeg), its arguments, grad_clip_cfg, and custom_cfg: `name` (a part of "
    "parameters' names), `lr_mult`, `weight_decay_mult`",
    "lr_scheduler": "`type` of paddle.optimizer.lr, its arguments, `warmup_iters` and `warmup_start_lr`",
    "freeze_batch_norm": "`backbone` or `all`: normalizations that keep their statistics and parameters",
    "plugins": "Python files, relative to the configuration, that register components",
}
_MAPPINGS = ("train_dataset", "val_dataset", "test_config", "optimizer", "lr_scheduler", "loss", "model")
_GROUP = ("name", "lr_mult", "weight_decay_mult")  # of parameters with a learning rate or weight decay of their own
_OPTIMIZER_NUMBERS = ("weight_decay", "momentum", "beta1", "beta2", "epsilon", "rho", "clip_norm", *_GROUP[1:])


def resolve_path(path: str) -> str:
    """Returns the file that a `--config` argument means.

    A path written for Windows is taken with `/`, and one whose backslashes an unquoting shell has eaten is looked for below
    configs/. A path below configs/ that is not in the current folder is one of those that come with the package.

    Raises:
        UserError: no such file; the message has the nearest ones.
    """
    if path is None:
        raise UserError("--config is missing: name a YAML file, e.g. --config configs/pspnet/pspnet_resnet18_demo.yml")
    for candidate in (path, path.replace("\\", "/")):
        if os.path.isfile(candidate):
            return candidate
    root = shipped("configs")
    known = {
        os.path.join("configs", os.path.relpath(os.path.join(folder, name), root)): os.path.join(folder, name)
        for folder, _, names in os.walk(root)
        for name in names
        if name.endswith(".yml")
    }
    for name, candidate in known.items():
        if path.replace("\\", "/") == name or path == name.replace(os.sep, ""):
            return candidate
    raise UserError(f"--config: there is no file {path}{registry.suggestion(path, known) if known else ''}")


class Config:
    """A configuration, checked; its methods build what it describes.

    Args:
        path: YAML file; see `resolve_path` and `read_yaml`.
        overrides: `key.subkey=value` items; see `apply_overrides`.
        iters (in place of epochs, too), batch_size, accumulate, learning_rate: replace the values in the file unless None.

    Raises:
        UserError: with the file, the key, and what is allowed there.
    """

    def __init__(
        self,
        path: str,
        overrides: list[str] | None = None,
        iters: int | None = None,
        batch_size: int | None = None,
        accumulate: int | None = None,
        learning_rate: float | None = None,
    ) -> None:
        self.path = resolve_path(path)
        self.data = read_yaml(self.path)
        apply_overrides(self.data, overrides)
        for key in self.data:
            if key not in KEYS:
                raise UserError(f"{self.path}: {key}: unknown key{registry.suggestion(key, KEYS)}")
        for key in _REQUIRED:
            if key not in self.data:
                raise UserError(f"{self.path}: the key {key!r} is missing")
        # what is empty is not there
        self.data = {key: value for key, value in self.data.items() if value is not None or key in _REQUIRED}
        self._check_kinds()
        self.data.setdefault("accumulate", 1)
        if iters is not None:
            self.data.pop("epochs", None)
        self._trial = iters is not None
        for key, value in (("iters", iters), ("batch_size", batch_size), ("accumulate", accumulate)):
            if value is not None:
                self.data[key] = value
        if learning_rate is not None:
            require_number(learning_rate, "--learning_rate", least=0)
            schedules.require_learning_rate(self.data["lr_scheduler"], f"--learning_rate: {self._where('lr_scheduler')}")
            self.data["lr_scheduler"]["learning_rate"] = learning_rate
        self._check_numbers()
        for plugin in self.data.get("plugins", ()):
            registry.load_plugin(plugin, self._where("plugins"))

    def _check_kinds(self):
        """Raises UserError for a value that is no mapping or list where one belongs."""
        for key in _MAPPINGS:
            if not isinstance(self.data.get(key, {}), dict):
                raise UserError(f"{self._where(key)}: expected a mapping, found {self.data[key]!r}")
        _require_list(self.data, "plugins", self._where(""))
        for key in ("train_dataset", "val_dataset"):
            dataset, where = self.data.get(key, {}), self._where(key)
            if dataset.get("transforms", ()) is None:
                dataset["transforms"] = []
            _require_list(dataset, "transforms", f"{where}.")
            names = dataset.get("class_names")
            if isinstance(names, list):
                if no_names := [name for name in names if name is None or isinstance(name, bool)]:
                    found = f"found {no_names[0]!r}, as YAML reads yes, no, on, off and null: put it in quotes"
                    raise UserError(f"{where}.class_names: expected names, {found}")
                dataset["class_names"] = list(map(str, names))

    def _check_numbers(self):
        """Raises UserError for what is no number, or one that no training takes, where one belongs."""
        if len(length := [key for key in LENGTH if key in self.data]) != 1:
            raise UserError(
                f"{self.path}: expected one of the keys 'iters' and 'epochs', found {' and '.join(length) or 'none'}"
            )
        for key in (*length, "batch_size", "accumulate"):
            require_number(self.data[key], self._where(key), least=1, whole=True)
        schedules.require_numbers(self.data["lr_scheduler"], self._where("lr_scheduler"))
        optimizer = self.data["optimizer"]
        if optimizer.get("custom_cfg") is not None:
            _require_list(optimizer, "custom_cfg", self._where("optimizer."))
        parts = {f"custom_cfg.{index}.": group for index, group in enumerate(optimizer.get("custom_cfg") or ())}
        for prefix, part in {"": optimizer, "grad_clip_cfg.": optimizer.get("grad_clip_cfg"), **parts}.items():
            for key in _OPTIMIZER_NUMBERS:
                if isinstance(part, dict) and part.get(key) is not None:
                    require_number(part[key], self._where(f"optimizer.{prefix}{key}"), least=0)
        _require_list(self.data["loss"], "coef", self._where("loss."))
        for index, weight in enumerate(self.data["loss"].get("coef", [])):
            require_number(weight, self._where(f"loss.coef.{index}"))

    def __str__(self) -> str:
        return dump(self.data)

    def _where(self, key):
        return f"{self.path}: {key}"

    @property
    def iters(self) -> int:
        """Iterations in all; of a schedule by `epochs` they are known after `count_iterations`."""
        return self.data["iters"]

    def count_iterations(self, images: int, processes: int = 1) -> None:
        """Turns a schedule by `epochs` into one by `iters`, for so many training images and processes.

        An epoch ends with its last whole iteration, as in training.
        """
        if "epochs" in self.data:
            epochs = self.data.pop("epochs")
            self.data["iters"] = epochs * max(images // (self.batch_size * self.accumulate * processes), 1)
            logger.info(f"{epochs} epochs of {images} images are {self.iters} iterations")

    @property
    def batch_size(self) -> int:
        return self.data["batch_size"]

    @property
    def accumulate(self) -> int:
        return self.data["accumulate"]

    def test_config(self) -> dict:
        """Returns the mapping `test_config`, which says how the network looks at images; `Views.from_options` checks it."""
        return dict(self.data.get("test_config", {}))

    def max_value(self) -> float | None:
        """Returns the value of a white pixel in images, or None where their type says it."""
        return self._dataset_constant("max_value", "MAX_VALUE")

    def _dataset_constant(self, key, constant, dataset="train_dataset"):
        """Returns what a data set says of itself: a key of its mapping, or a constant of its class."""
        spec = self.data[dataset]
        if key in spec:
            return spec[key]
        return getattr(registry.find(spec.get("type"), self._where(f"{dataset}.type")), constant, None)

    def palette(self) -> Sequence[Sequence[int]] | None:
        """Returns the (red, green, blue) colour of each class, or None where the data set names none."""
        return self._dataset_constant("palette", "PALETTE")

    def class_names(self) -> Sequence[str] | None:
        """Returns the name of each class, or None where the data set names none."""
        return self._dataset_constant("class_names", "CLASS_NAMES")

    def img_channels(self) -> int:
        """Returns how many channels images have."""
        return self._dataset_constant("img_channels", "IMG_CHANNELS") or 3

    def ignore_index(self, dataset: str = "train_dataset") -> int:
        """Returns the label value that counts for nothing."""
        found = self._dataset_constant("ignore_index", "IGNORE_INDEX", dataset)
        return 255 if found is None else found

    def build_dataset(self, key: str) -> Dataset:
        """Returns the data set under the key `train_dataset` or `val_dataset`."""
        if key not in self.data:
            raise UserError(f"{self.path}: the key {key!r} is missing, and this command needs it")
        spec = self.data[key]
        if isinstance(spec, dict) and "transforms" in spec:
            spec = {**spec, "transforms": self._transforms(key)}
        dataset = build(spec, self._where(key))
        require_classes(dataset.num_classes, self._where(f"{key}.num_classes"))
        if key == "val_dataset":
            require_agreement(self._trained_on(dataset), dataset, self.path)
        return dataset

    def _trained_on(self, default):
        """Returns what the training data set says of its classes, without looking for the data; else what another says."""
        classes = self._dataset_constant("num_classes", "NUM_CLASSES")
        return SimpleNamespace(
            num_classes=default.num_classes if classes is None else classes,
            ignore_index=self.ignore_index(),
            CLASS_NAMES=self.class_names(),
        )

    def check_datasets(self, train: Dataset, val: Dataset | None = None) -> None:
        """Compares what data sets, and the network, say of classes and ignored pixels; what may be meant is a warning.

        Raises:
            UserError: numbers or names of classes, or ignored values, differ.
        """
        self._require_classes(train.num_classes)
        if train.ignore_index in range(train.num_classes):
            where = self._where("train_dataset.ignore_index")
            logger.warning(f"{where}: {train.ignore_index} is a class, whose pixels count for nothing: is that meant?")
        for key, values in (("palette", self.palette()), ("class_names", self.class_names())):
            if values is not None and len(values) != train.num_classes:
                logger.warning(f"{self._where(f'train_dataset.{key}')}: {len(values)} entries for {train.num_classes} classes")
        if val is not None:
            require_agreement(train, val, self.path)

    def _require_classes(self, classes):
        """Raises UserError unless the training data set's number of classes makes sense and is the network's."""
        require_classes(classes, self._where("train_dataset.num_classes"))
        if (given := self.data["model"].get("num_classes", classes)) != classes:
            raise UserError(f"{self._where('model.num_classes')}: {given}, but the training data set has {classes} classes")

    def build_transforms(self, key: str = "val_dataset") -> list:
        """Returns the list of transforms of a data set, without looking for the data."""
        specs = self._transforms(key) if self.data.get(key) else []
        return [registry.build(spec, self._where(f"{key}.transforms.{i}")) for i, spec in enumerate(specs)]

    def _transforms(self, key):
        """Returns the mappings of a data set's transforms, in which labels are padded with what it ignores.

        Raises:
            UserError: one pads with, or ignores, what is neither a class nor the ignored value.
        """
        specs, where = copy.deepcopy(self.data[key].get("transforms") or []), self._where(f"{key}.transforms")
        ignored, classes = self.ignore_index(key), self._dataset_constant("num_classes", "NUM_CLASSES", key)
        for place, item, component in registry.components(specs, where):
            for name in ("label_padding_value", "ignore_index"):
                value = item.get(name, ignored)
                if value != ignored and isinstance(classes, int) and value not in range(classes):
                    raise UserError(
                        f"{place}.{name}: {value} is no class, and the data set ignores {ignored}: leave {name} out, or set "
                        f"the data set's ignore_index to {value}"
                    )
                if value != ignored and key == "train_dataset":  # the labels of validation stay as they are
                    logger.warning(f"{place}.{name}: {value} is a class, and the data set ignores {ignored}: is that meant?")
            registry.set_defaults(item, component, label_padding_value=ignored, ignore_index=ignored)
        return specs

    def without_pretrained(self) -> Config:
        """Drops the weights to start from, so that nothing is downloaded or read; returns the configuration itself."""
        network = self.data["model"]
        for part in (network, network.get("backbone")):
            if isinstance(part, dict):
                part.pop("pretrained", None)
        return self

    def _num_classes(self, train_dataset=None):
        """Returns how many classes the training data set, or else the network's mapping, says there are; None for neither."""
        classes = self._dataset_constant("num_classes", "NUM_CLASSES")
        if classes is None:
            classes = getattr(train_dataset, "num_classes", None)
        return self.data["model"].get("num_classes") if classes is None else classes

    def build_model(self) -> nn.Layer:
        """Returns the network, with its number of classes and its crop size taken from the training data set if not given."""
        classes = self._dataset_constant("num_classes", "NUM_CLASSES")
        spec = dict(self.data["model"])
        if classes is not None:
            self._require_classes(classes)
            spec["num_classes"] = classes
        require_classes(spec.get("num_classes"), self._where("model.num_classes"))
        return build(spec, self._where("model"), crop_size=self.crop_size())

    def crop_size(self) -> tuple[int, int] | None:
        """Returns the (height, width) that training images have after the transforms, or None where it varies."""
        for spec in reversed(self.data["train_dataset"].get("transforms") or []):
            size = spec.get("crop_size", spec.get("target_size")) if isinstance(spec, dict) else None
            if isinstance(size, (list, tuple)):
                return tuple(size[::-1])  # transforms have (width, height), as PaddleSeg
        return None

    def freeze_batch_norm(self, model: nn.Layer) -> None:
        """Freezes the batch normalizations that `freeze_batch_norm` names: those of the "backbone", or "all"."""
        choice, allowed = (
            self.data.get("freeze_batch_norm"),
            {None: None, "all": model, "backbone": getattr(model, "backbone", None)},
        )
        if choice not in allowed:
            raise UserError(f"{self._where('freeze_batch_norm')}: expected backbone, all or null, found {choice!r}")
        if choice is not None:
            freeze_batch_norm(allowed[choice])

    def build_losses(self, train_dataset: Dataset | None = None) -> list[tuple[float, nn.Layer]]:
        """Returns a list of (weight, loss), one for each output of the network.

        Class weights may be the name of a rule instead of numbers; they are then computed from the labels of train_dataset, and
        take the name's place in `data`.
        """
        spec, where = self.data["loss"], self._where("loss")
        if not isinstance(spec, dict) or set(spec) != {"types", "coef"}:
            raise UserError(f"{where}: expected the keys 'types' (a list of losses) and 'coef' (a list of weights)")
        types, weights = spec["types"], spec["coef"]
        for key in ("types", "coef"):
            if not isinstance(spec[key], list):
                raise UserError(f"{where}.{key}: expected a list, found {spec[key]!r}")
        if len(types) not in (1, len(weights)):
            raise UserError(f"{where}: {len(types)} types but {len(weights)} coef; give one type for all, or one for each coef")
        classes, ignored = self._num_classes(train_dataset), self.ignore_index()
        for place, item, component in registry.components(types, f"{where}.types"):
            if isinstance(item.get("weight"), str) and item["type"] != "BCELoss":  # whose own rule is 'dynamic'
                item["weight"] = self._class_weights(item["weight"], train_dataset, f"{place}.weight")
            check_loss(item, component, place, classes, ignored)
        types = copy.deepcopy(types)
        for _, item, component in registry.components(types, f"{where}.types"):
            registry.set_defaults(item, component, ignore_index=ignored, num_classes=classes, num_class=classes)
        places = [0] * len(weights) if len(types) == 1 else range(len(types))
        return [(weight, build(types[i], f"{where}.types.{i}")) for weight, i in zip(weights, places)]

    def _class_weights(self, rule, dataset, where):
        if rule not in CLASS_WEIGHTS:
            raise UserError(f"{where}: there is no rule {rule!r}{registry.suggestion(rule, CLASS_WEIGHTS)}")
        return [round(float(weight), 6) for weight in CLASS_WEIGHTS[rule](count_classes(dataset))]

    def build_scheduler(self) -> LRScheduler:
        """Returns the learning-rate schedule: a class of paddle.optimizer.lr, with PaddleSeg's linear warm-up on request."""
        return schedules.build_schedule(self.data["lr_scheduler"], self.iters, self._where("lr_scheduler"), self._trial)

    def build_optimizer(self, model: nn.Layer, schedule: LRScheduler) -> Optimizer:
        """Returns the optimizer of paddleseg for the parameters of a network; `SGD` with momentum means `Momentum`."""
        spec = {key: value for key, value in self.data["optimizer"].items() if value is not None}
        if spec.get("type") in ("sgd", "adam"):
            spec["type"] = {"sgd": "SGD", "adam": "Adam"}[spec["type"]]
        if spec.get("type") == "SGD" and "momentum" in spec:
            spec["type"] = "Momentum"
        if "weight_decay" in spec:
            spec["weight_decay"] = float(spec["weight_decay"])  # paddleseg refuses a whole number
        names = [name for name, _ in model.named_parameters()]
        for index, group in enumerate(spec.get("custom_cfg") or ()):
            where = self._where(f"optimizer.custom_cfg.{index}")
            if not isinstance(group, dict) or not {"name"} <= group.keys() <= {*_GROUP} or not isinstance(group["name"], str):
                found = ", ".join(map(str, group)) if isinstance(group, dict) else repr(group)
                raise UserError(f"{where}: expected {', '.join(_GROUP)} (the name at least), found {found}")
            if not any(group["name"] in name for name in names):
                raise UserError(
                    f"{where}.name: no parameter has {group['name']!r} in its name; some are {', '.join(names[:3])}"
                )
        builder, level = registry.build(spec, self._where("optimizer")), paddleseg_logger.log_level
        paddleseg_logger.log_level = 1  # paddleseg lists every parameter of every group
        try:
            optimizer = builder(model, schedule)
        finally:
            paddleseg_logger.log_level = level
        _tell_groups(spec.get("custom_cfg") or (), names)
        return optimizer


def build(spec: dict, where: str, **defaults: object) -> Any:
    """Builds as `registry.build`; parts of paddleseg get copies of their weights, whose files are data (docs/security.md)."""
    spec = copy.deepcopy(spec)
    with tempfile.TemporaryDirectory() as folder:
        for place, item, component in registry.components(spec, where):
            path = item.get("pretrained")
            if path and isinstance(path, str) and component.__module__.startswith("paddleseg."):
                try:
                    item["pretrained"] = harmless_copy(path, folder)
                except UserError as error:
                    raise UserError(f"{place}.pretrained: {error}")
        return registry.build(spec, where, **defaults)


def _require_list(mapping, key, where):
    if not isinstance(mapping.get(key, []), list):
        raise UserError(f"{where}{key}: expected a list, found {mapping[key]!r}")


def _tell_groups(groups, names):
    """Logs how many of the parameters each group has, the first that fits counting."""
    left = list(names)
    for group in groups:
        own = [name for name in left if group["name"] in name]
        left = [name for name in left if name not in own]
        factors = ", ".join(f"{key} {group[key]}" for key in _GROUP[1:] if key in group)
        logger.info(f"{len(own)} parameters with {group['name']!r} in their names: {factors}")
