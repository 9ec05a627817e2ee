"""Checkpoints: everything that a run needs to resume, one folder for each save, complete or absent.

A folder iter_<n> has model.pdparams (plain, as PaddleSeg's), model.pdopt, average.pdparams where weights are averaged,
state.json (a `Progress` and the loss scaler) and SHA256SUMS, which `sha256sum -c` reads. No random-number state is needed:
order, transforms and dropout are functions of the seed and the iteration.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil

import paddle
from paddle import nn
from paddle.optimizer import Optimizer

from paddleseg_psp.config.yaml import require_number
from paddleseg_psp.engine import distributed
from paddleseg_psp.engine.precision import LossScaler
from paddleseg_psp.engine.weight_average import WeightAverage
from paddleseg_psp.errors import UserError
from paddleseg_psp.files import atomic_folder, atomic_path, link_or_copy, read_if_there, sha256
from paddleseg_psp.log import logger
from paddleseg_psp.models.weights import load_weights, read_weights

_PARAMETERS, _OPTIMIZER, _AVERAGE, _STATE = "model.pdparams", "model.pdopt", "average.pdparams", "state.json"
_SUMS = "SHA256SUMS"
BEST = "best_model"
METRICS = "metrics.json"  # of the best model
_FOLDER = re.compile(r"iter_(\d+)(\.old)?")  # .old: was being replaced when the process died


@dataclasses.dataclass
class Progress:
    """The progress of a run.

    Attributes:
        seed: of everything random in the run.
        iteration: iterations done.
        best_miou, best_iteration: the best evaluation so far; None before the first.
        evaluated: the iteration of the last evaluation that was completed.
        without_gain: evaluations since the best.
        config: the resolved configuration, as YAML.
    """

    seed: int
    iteration: int = 0
    best_miou: float | None = None
    best_iteration: int | None = None
    evaluated: int = 0
    without_gain: int = 0
    config: str | None = None


class Checkpoints:
    """The checkpoints of one run.

    Args:
        save_dir: gets iter_<n>/ and best_model/.
        keep: checkpoints kept, the newest; 0 keeps all.
        model (Layer), optimizer, scaler (LossScaler), average (WeightAverage): what is saved.

    """

    def __init__(
        self, save_dir: str, keep: int, model: nn.Layer, optimizer: Optimizer, scaler: LossScaler, average: WeightAverage
    ) -> None:
        self._save_dir, self._keep = save_dir, keep
        self._model, self._optimizer, self._scaler, self._average = model, optimizer, scaler, average
        self._latest: str | None = None  # the folder that was saved or loaded last, and the iterations in it
        self._saved = 0

    def save(self, progress: Progress) -> str:
        """Writes iter_<iteration>/ and removes the oldest checkpoints beyond those to keep; returns the folder.

        Of several processes, the first one writes.

        Raises:
            UserError: nothing could be written, as on a full disk; the earlier checkpoints are still there.
        """
        final = self._final(progress)
        if distributed.rank() == 0:
            try:
                with atomic_folder(final) as folder:
                    paddle.save(self._model.state_dict(), os.path.join(folder, _PARAMETERS))
                    paddle.save(_optimizer_state(self._model, self._optimizer), os.path.join(folder, _OPTIMIZER))
                    if self._average.enabled:
                        paddle.save(self._average.state_dict(), os.path.join(folder, _AVERAGE))
                    self._complete(folder, progress, {})
            except OSError as error:
                raise UserError(f"the checkpoint {final} could not be written: {error.strerror}. Earlier ones are as they were")
            logger.info(f"Saved {final}")
            for old in find_checkpoints(self._save_dir)[self._keep :] if self._keep else ():
                try:
                    shutil.rmtree(old)
                except OSError as error:
                    logger.warning(f"The old checkpoint {old} could not be removed: {error}")
        self._latest, self._saved = final, progress.iteration
        return final

    def keep(self, progress: Progress) -> str:
        """Returns the folder with the current iteration, after saving it if there is none."""
        return str(self._latest) if self.has(progress) else self.save(progress)

    def has(self, progress: Progress) -> bool:
        """Returns whether a folder has the current iteration."""
        return self._latest is not None and self._saved == progress.iteration

    def update(self, progress: Progress) -> None:
        """Adds the result of an evaluation in `progress` to the checkpoint of its iteration, atomically.

        What cannot be written, as on a full disk, is a warning: a resumed run would evaluate again.
        """
        final = self._final(progress)
        if self._latest is None or os.path.abspath(self._latest) != os.path.abspath(final):  # resumed from elsewhere
            self.save(progress)
        elif distributed.rank() == 0:
            try:
                with atomic_folder(final) as folder:
                    kept = {name: digest for digest, name in _read_sums(final) if name != _STATE}
                    for name in kept:
                        link_or_copy(os.path.join(final, name), os.path.join(folder, name))
                    self._complete(folder, progress, kept)
            except OSError as error:
                logger.warning(f"{final} does not have its evaluation ({error.strerror}): resumed, it is evaluated again")

    def _final(self, progress):
        return os.path.join(self._save_dir, f"iter_{progress.iteration}")

    def _complete(self, folder, progress, sums):
        """Writes state.json and SHA256SUMS; `sums` are those known already."""
        with open(os.path.join(folder, _STATE), "w", encoding="utf-8") as file:
            json.dump({**dataclasses.asdict(progress), "scaler": self._scaler.state_dict()}, file, indent=1)
        names = sorted(os.listdir(folder))
        with open(os.path.join(folder, _SUMS), "w", encoding="utf-8") as file:
            file.writelines(f"{sums.get(name) or sha256(os.path.join(folder, name))}  {name}\n" for name in names)

    def save_best(self, metrics: dict) -> None:
        """Writes best_model/model.pdparams, the weights that the network has now, and metrics.json beside it.

        The metrics have the checksum of their weights, so those of other weights go first.
        """
        path, noted = (os.path.join(self._save_dir, BEST, name) for name in (_PARAMETERS, METRICS))
        try:
            with atomic_path(path) as temporary:
                paddle.save(self._model.state_dict(), temporary)
                with contextlib.suppress(FileNotFoundError):
                    os.remove(noted)
            with atomic_path(noted) as temporary, open(temporary, "w") as file:
                json.dump({"weights_sha256": sha256(path), **metrics}, file, indent=1)
        except OSError as error:
            raise UserError(f"{path} could not be written: {error.strerror}")

    def load(self, folder: str) -> Progress:
        """Restores everything from a save, and returns its Progress.

        Raises:
            UserError: no checkpoint, a damaged one, or one of another network.
        """
        reason = damage(folder)
        if reason:
            raise UserError(
                f"--resume_model {folder}: {reason}. Resume from another checkpoint, or from auto, the newest whole one"
            )
        progress, scaler = _read_state(os.path.join(folder, _STATE))
        load_weights(self._model, os.path.join(folder, _PARAMETERS), strict=True)
        _set_optimizer_state(self._model, self._optimizer, os.path.join(folder, _OPTIMIZER))
        if self._average.enabled:
            path = os.path.join(folder, _AVERAGE)
            if not os.path.exists(path):
                raise UserError(f"--resume_model {folder} was trained without --use_ema; resume it without, too")
            self._average.set_state_dict(read_weights(path), path)
        self._scaler.set_state_dict(scaler)
        self._latest, self._saved = folder, progress.iteration
        return progress


def _read_state(path):
    """Returns the Progress and the loss scaler's state in a state.json."""
    try:
        with open(path, encoding="utf-8") as file:
            state = json.load(file)
        scaler = {key: state["scaler"][key] for key in ("scale", "good_steps")}
        progress = Progress(**{key: value for key, value in state.items() if key != "scaler"})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is no state of a training: {type(error).__name__}: {error}")
    for key in ("seed", "iteration", "evaluated", "without_gain"):
        require_number(getattr(progress, key), f"{path}: {key}", least=0, whole=True)
    for key in ("best_miou", "best_iteration"):
        if (value := getattr(progress, key)) is not None:
            require_number(value, f"{path}: {key}", least=0)
    for key, value in scaler.items():
        require_number(value, f"{path}: scaler.{key}", least=0)
    if not isinstance(progress.config, (str, type(None))):
        raise UserError(f"{path}: config: expected a text, found a {type(progress.config).__name__}")
    return progress, scaler


def metrics_of(path: str) -> dict | None:
    """Returns the metrics recorded beside a file of weights, or None if there are none or they belong to other weights."""
    try:
        metrics = json.loads(read_if_there(os.path.join(os.path.dirname(path), METRICS), most=2**20))
        return metrics if metrics.pop("weights_sha256") == sha256(path) else None
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None


def find_checkpoints(save_dir: str) -> list[str]:
    """Returns the checkpoint folders in save_dir, newest first, damaged ones included."""
    names = os.listdir(save_dir) if os.path.isdir(save_dir) else []
    found = [match for match in map(_FOLDER.fullmatch, names) if match]
    found.sort(key=lambda match: (int(match[1]), match[2] is None), reverse=True)
    return [os.path.join(save_dir, match[0]) for match in found]


def newest_checkpoint(save_dir: str) -> str | None:
    """Returns the newest complete checkpoint folder in save_dir, or None; logs why it skips one."""
    for folder in find_checkpoints(save_dir):
        reason = damage(folder)
        if reason is None:
            return folder
        logger.warning(f"{folder} is passed over: {reason}")
    return None


def _read_sums(folder):
    """Returns (checksum, name) pairs."""
    with open(os.path.join(folder, _SUMS), encoding="utf-8") as file:
        return [line.split() for line in file]


def damage(folder: str) -> str | None:
    """Returns what is wrong with a checkpoint folder, or None: each file must have the checksum it was written with."""
    try:
        sums = _read_sums(folder)
        for expected, name in sums:
            if os.path.basename(name) != name or not os.path.isfile(os.path.join(folder, name)):
                return f"it has no file {name}, which {_SUMS} lists"
            if sha256(os.path.join(folder, name)) != expected:
                return f"{name} is damaged"
        missing = {_PARAMETERS, _OPTIMIZER, _STATE} - {name for _, name in sums}
        return f"{_SUMS} lacks {', '.join(sorted(missing))}" if missing else None
    except FileNotFoundError as error:
        return f"it has no {os.path.basename(error.filename)}" if os.path.isdir(folder) else "there is no such folder"
    except (OSError, ValueError) as error:
        return str(error)


# Paddle keys an optimizer's state by parameter names that count the layers made in a process (conv2d_7.w_0_velocity_0), so
# that they depend on what was made before. Checkpoints have the names of model.named_parameters() in their place.


def _optimizer_state(model, optimizer):
    names = {parameter.name: name for name, parameter in model.named_parameters()}
    renamed = {}
    for key, value in optimizer.state_dict().items():
        if key == "master_weights":  # float32 copies of parameters in half precision
            renamed[key] = {names[own]: weight for own, weight in value.items()}
            continue
        own = max((own for own in names if key.startswith(own + "_")), key=len, default=None)
        renamed[f"{names[own]}|{key[len(own) :]}" if own else key] = value
    return renamed


def _set_optimizer_state(model, optimizer, path):
    own = {name: parameter.name for name, parameter in model.named_parameters()}
    renamed = {}
    try:
        for key, value in read_weights(path).items():
            name, bar, rest = key.partition("|")
            if key == "master_weights":
                value = {own[name]: paddle.to_tensor(weight, dtype="float32") for name, weight in value.items()}
            renamed[own[name] + rest if bar else key] = value
        optimizer.set_state_dict(renamed)
    except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:  # all are Paddle's
        raise UserError(f"{path} is no state of this network's {type(optimizer).__name__}: {type(error).__name__}: {error}")
