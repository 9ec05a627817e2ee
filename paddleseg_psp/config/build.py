"""The components that a configuration describes."""

from __future__ import annotations

import copy
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
from paddleseg_psp import registry
from paddleseg_psp.config import schedules
from paddleseg_psp.config.schema import GROUP, check_kinds, check_numbers
from paddleseg_psp.config.yaml import apply_overrides, dump, read_yaml, require_number, resolve_path
from paddleseg_psp.data.checks.agreement import require_agreement, require_classes
from paddleseg_psp.data.checks.class_weights import CLASS_WEIGHTS, count_classes
from paddleseg_psp.errors import UserError, suggestion
from paddleseg_psp.log import logger
from paddleseg_psp.losses.requirements import check_loss
from paddleseg_psp.models.layers import freeze_batch_norm
from paddleseg_psp.models.weights import harmless_copy
from paddleseg_psp.sizes import height_width


class Config:
    """A configuration, checked; its methods build what it describes, in any order, and change nothing in it.

    Args:
        path: YAML file; see `resolve_path` and `read_yaml`.
        overrides: `key.subkey=value` items; see `apply_overrides`.
        iters: replaces iters or epochs in the file unless None.
        batch_size: likewise.
        accumulate: likewise.
        learning_rate: likewise, that of lr_scheduler.

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
        data = read_yaml(self.path)
        apply_overrides(data, overrides)
        data = check_kinds(data, self.path)
        if iters is not None:
            data.pop("epochs", None)
        self._trial = iters is not None
        flags = {"iters": iters, "batch_size": batch_size, "accumulate": accumulate}
        data.update({key: value for key, value in flags.items() if value is not None})
        if learning_rate is not None:
            require_number(learning_rate, "--learning_rate", least=0)
            schedules.require_learning_rate(data["lr_scheduler"], f"--learning_rate: {self._where('lr_scheduler')}")
            data["lr_scheduler"]["learning_rate"] = learning_rate
        check_numbers(data, self.path)
        self._data = data
        for plugin in data.get("plugins", ()):
            registry.load_plugin(plugin, self._where("plugins"))

    @property
    def data(self) -> dict:
        """A copy of the configuration's mapping."""
        return copy.deepcopy(self._data)

    def replaced(self, data: dict) -> Config:
        """Returns the same configuration with another mapping.

        Raises:
            UserError: as `Config` does.
        """
        other = copy.copy(self)
        other._data = check_kinds(copy.deepcopy(data), self.path)
        check_numbers(other._data, self.path)
        return other

    def resolved(self, train_dataset: Dataset, processes: int = 1) -> Config:
        """Returns the configuration with numbers in place of what depends on the training data: epochs, class weights."""
        data = self.data
        data["iters"] = self.iterations(len(train_dataset), processes)
        if epochs := data.pop("epochs", None):
            logger.info(f"{epochs} epochs of {len(train_dataset)} images are {data['iters']} iterations")
        for place, item, _ in registry.components(data["loss"].get("types"), self._where("loss.types")):
            if _is_rule(item):
                item["weight"] = _class_weights(item["weight"], train_dataset, f"{place}.weight")
        return self.replaced(data)

    def __str__(self) -> str:
        return dump(self._data)

    def _where(self, key):
        return f"{self.path}: {key}"

    @property
    def iters(self) -> int:
        """Total number of iterations; a schedule by `epochs` counts the training images."""
        return self.iterations()

    def iterations(self, images: int | None = None, processes: int = 1) -> int:
        """Returns the total number of iterations.

        Args:
            images: in the training data set, for a schedule by `epochs`; None looks. The incomplete last batch of an epoch is
                dropped.
            processes: that train together.
        """
        if "epochs" not in self._data:
            return self._data["iters"]
        images = len(self.build_dataset("train_dataset")) if images is None else images
        return self._data["epochs"] * max(images // (self.batch_size * self.accumulate * processes), 1)

    @property
    def batch_size(self) -> int:
        return self._data["batch_size"]

    @property
    def accumulate(self) -> int:
        return self._data["accumulate"]

    def test_config(self) -> dict:
        """Returns the mapping `test_config`, windows, scales and flips in evaluation; `Views.from_options` checks it."""
        return dict(self._data.get("test_config", {}))

    def max_value(self) -> float | None:
        """Returns the value of a white pixel in images, or None if the type of the file determines it."""
        return self._dataset_constant("max_value", "MAX_VALUE")

    def _dataset_constant(self, key, constant, dataset="train_dataset"):
        """Returns a property of a data set: a key of its mapping, or a constant of its class."""
        spec = self._data[dataset]
        if key in spec:
            return spec[key]
        return getattr(registry.find(spec.get("type"), self._where(f"{dataset}.type")), constant, None)

    def palette(self) -> Sequence[Sequence[int]] | None:
        """Returns the (red, green, blue) color of each class, or None if the data set has none."""
        return self._dataset_constant("palette", "PALETTE")

    def class_names(self) -> Sequence[str] | None:
        """Returns the name of each class, or None if the data set has none."""
        return self._dataset_constant("class_names", "CLASS_NAMES")

    def img_channels(self) -> int:
        """Returns the number of channels of images."""
        return self._dataset_constant("img_channels", "IMG_CHANNELS") or 3

    def ignore_index(self, dataset: str = "train_dataset") -> int:
        """Returns the label value that is ignored."""
        found = self._dataset_constant("ignore_index", "IGNORE_INDEX", dataset)
        return 255 if found is None else found

    def build_dataset(self, key: str) -> Dataset:
        """Returns the data set under the key `train_dataset` or `val_dataset`."""
        if key not in self._data:
            raise UserError(f"{self.path}: the key {key!r} is missing, and this command needs it")
        spec = self._data[key]
        if isinstance(spec, dict) and "transforms" in spec:
            spec = {**spec, "transforms": self._transforms(key)}
        dataset = build(spec, self._where(key))
        require_classes(dataset.num_classes, self._where(f"{key}.num_classes"))
        if key == "val_dataset":
            require_agreement(self._trained_on(dataset), dataset, self.path)
        return dataset

    def _trained_on(self, default):
        """Returns the classes of the training data set without reading its files; `default` has what is unknown."""
        classes = self._dataset_constant("num_classes", "NUM_CLASSES")
        return SimpleNamespace(
            num_classes=default.num_classes if classes is None else classes,
            ignore_index=self.ignore_index(),
            CLASS_NAMES=self.class_names(),
        )

    def check_datasets(self, train: Dataset, val: Dataset | None = None) -> None:
        """Checks that the data sets and the network agree in classes and ignored pixels; logs warnings for doubtful values.

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
        if (given := self._data["model"].get("num_classes", classes)) != classes:
            raise UserError(f"{self._where('model.num_classes')}: {given}, but the training data set has {classes} classes")

    def build_transforms(self, key: str = "val_dataset") -> list:
        """Returns the list of transforms of a data set, without reading its files."""
        specs = self._transforms(key) if self._data.get(key) else []
        return [registry.build(spec, self._where(f"{key}.transforms.{i}")) for i, spec in enumerate(specs)]

    def _transforms(self, key):
        """Returns the mappings of a data set's transforms; labels are padded with its ignore_index.

        Raises:
            UserError: one pads with, or ignores, what is neither a class nor the ignored value.
        """
        specs, where = copy.deepcopy(self._data[key].get("transforms") or []), self._where(f"{key}.transforms")
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

    def _num_classes(self, train_dataset=None):
        """Returns the number of classes of the training data set or, if it has none, of the network; None if both have none."""
        classes = self._dataset_constant("num_classes", "NUM_CLASSES")
        if classes is None:
            classes = getattr(train_dataset, "num_classes", None)
        return self._data["model"].get("num_classes") if classes is None else classes

    def build_model(self, pretrained: bool = True) -> nn.Layer:
        """Returns the network, with its number of classes and its crop size taken from the training data set if not given.

        Args:
            pretrained: False leaves out the weights to start from, so that nothing is downloaded or read.
        """
        classes = self._dataset_constant("num_classes", "NUM_CLASSES")
        spec = dict(self._data["model"])
        if classes is not None:
            self._require_classes(classes)
            spec["num_classes"] = classes
        require_classes(spec.get("num_classes"), self._where("model.num_classes"))
        spec = spec if pretrained else without_pretrained(spec)
        return build(spec, self._where("model"), crop_size=self.crop_size())

    def crop_size(self) -> tuple[int, int] | None:
        """Returns the (height, width) of training images after the transforms, or None if it varies.

        Here sizes in a configuration, (width, height) as in PaddleSeg, become those of the code.
        """
        for spec in reversed(self._data["train_dataset"].get("transforms") or []):
            size = spec.get("crop_size", spec.get("target_size")) if isinstance(spec, dict) else None
            if isinstance(size, (list, tuple)):
                return height_width(size)
        return None

    def freeze_batch_norm(self, model: nn.Layer) -> None:
        """Freezes the batch normalizations that `freeze_batch_norm` names: those of the "backbone", or "all"."""
        choice, allowed = (
            self._data.get("freeze_batch_norm"),
            {None: None, "all": model, "backbone": getattr(model, "backbone", None)},
        )
        if choice not in allowed:
            raise UserError(f"{self._where('freeze_batch_norm')}: expected backbone, all or null, found {choice!r}")
        if choice is not None:
            freeze_batch_norm(allowed[choice])

    def build_losses(self, train_dataset: Dataset | None = None) -> list[tuple[float, nn.Layer]]:
        """Returns a list of (weight, loss), one for each output of the network.

        Class weights may be the name of a rule instead of numbers; they are then computed from the labels of train_dataset, by
        default the configuration's.
        """
        spec, where = copy.deepcopy(self._data["loss"]), self._where("loss")
        if set(spec) != {"types", "coef"}:
            raise UserError(f"{where}: expected the keys 'types' (a list of losses) and 'coef' (a list of weights)")
        types, weights = spec["types"], spec["coef"]
        for key in ("types", "coef"):
            if not isinstance(spec[key], list):
                raise UserError(f"{where}.{key}: expected a list, found {spec[key]!r}")
        if len(types) not in (1, len(weights)):
            raise UserError(f"{where}: {len(types)} types but {len(weights)} coef; give one type for all, or one for each coef")
        classes, ignored = self._num_classes(train_dataset), self.ignore_index()
        for place, item, component in registry.components(types, f"{where}.types"):
            if _is_rule(item):
                train_dataset = train_dataset or self.build_dataset("train_dataset")
                item["weight"] = _class_weights(item["weight"], train_dataset, f"{place}.weight")
            check_loss(item, component, place, classes, ignored)
            registry.set_defaults(item, component, ignore_index=ignored, num_classes=classes, num_class=classes)
        places = [0] * len(weights) if len(types) == 1 else range(len(types))
        return [(weight, build(types[i], f"{where}.types.{i}")) for weight, i in zip(weights, places)]

    def build_scheduler(self, iters: int | None = None) -> LRScheduler:
        """Returns the learning-rate schedule: a class of paddle.optimizer.lr, with PaddleSeg's linear warm-up on request.

        Args:
            iters: total number of iterations; by default the configuration's.
        """
        iters = self.iters if iters is None else iters
        return schedules.build_schedule(self._data["lr_scheduler"], iters, self._where("lr_scheduler"), self._trial)

    def build_optimizer(self, model: nn.Layer, schedule: LRScheduler) -> Optimizer:
        """Returns the optimizer of paddleseg for the parameters of a network; `SGD` with momentum means `Momentum`."""
        spec = {key: value for key, value in self._data["optimizer"].items() if value is not None}
        if spec.get("type") in ("sgd", "adam"):
            spec["type"] = {"sgd": "SGD", "adam": "Adam"}[spec["type"]]
        if spec.get("type") == "SGD" and "momentum" in spec:
            spec["type"] = "Momentum"
        if "weight_decay" in spec:
            spec["weight_decay"] = float(spec["weight_decay"])  # paddleseg refuses a whole number
        names = [name for name, _ in model.named_parameters()]
        for index, group in enumerate(spec.get("custom_cfg") or ()):
            where = self._where(f"optimizer.custom_cfg.{index}")
            if not isinstance(group, dict) or not {"name"} <= group.keys() <= {*GROUP} or not isinstance(group["name"], str):
                found = ", ".join(map(str, group)) if isinstance(group, dict) else repr(group)
                raise UserError(f"{where}: expected {', '.join(GROUP)} (the name at least), found {found}")
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
    """Builds like `registry.build`, but gives paddleseg's components copies of their weights that are safe to unpickle."""
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


def without_pretrained(spec: dict) -> dict:
    """Returns the mapping of a network without the weights to start from."""
    spec = {key: value for key, value in spec.items() if key != "pretrained"}
    backbone = spec.get("backbone")
    return {**spec, "backbone": without_pretrained(backbone)} if isinstance(backbone, dict) else spec


def _is_rule(loss):
    """Returns whether a loss's class weights are the name of a rule; BCELoss has one of its own."""
    return isinstance(loss.get("weight"), str) and loss["type"] != "BCELoss"


def _class_weights(rule, dataset, where):
    if rule not in CLASS_WEIGHTS:
        raise UserError(f"{where}: there is no rule {rule!r}{suggestion(rule, CLASS_WEIGHTS)}")
    return [round(float(weight), 6) for weight in CLASS_WEIGHTS[rule](count_classes(dataset))]


def _tell_groups(groups, names):
    """Logs the number of parameters in each group; a parameter belongs to the first group that matches."""
    left = list(names)
    for group in groups:
        own = [name for name in left if group["name"] in name]
        left = [name for name in left if name not in own]
        factors = ", ".join(f"{key} {group[key]}" for key in GROUP[1:] if key in group)
        logger.info(f"{len(own)} parameters with {group['name']!r} in their names: {factors}")
