"""Checkpoints: one folder a save, made under another name and renamed when complete."""

import json
import os
import re
import shutil

import paddle

from paddleseg_psp.errors import UserError
from paddleseg_psp.files import atomic_path
from paddleseg_psp.models.weights import load_weights, read_weights

_PARAMETERS, _OPTIMIZER, _STATE = "model.pdparams", "model.pdopt", "state.json"


def save_checkpoint(save_dir, model, optimizer, state, keep):
    """Writes <save_dir>/iter_<iteration>/ and removes the oldest checkpoints beyond `keep` (0 keeps all).

    Args:
        state (dict): the iteration and what else a resumed run needs, as JSON.
    """
    name = f"iter_{state['iteration']}"
    final, temporary = os.path.join(save_dir, name), os.path.join(save_dir, f".{name}.{os.getpid()}")
    try:
        os.makedirs(temporary)
        paddle.save(model.state_dict(), os.path.join(temporary, _PARAMETERS))
        paddle.save(_optimizer_state(model, optimizer), os.path.join(temporary, _OPTIMIZER))
        with open(os.path.join(temporary, _STATE), "w", encoding="utf-8") as file:
            json.dump(state, file)
        if os.path.isdir(final):
            shutil.rmtree(final)
        os.replace(temporary, final)
    except OSError as error:
        raise UserError(f"the checkpoint {final} could not be written: {error.strerror}")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in _checkpoints(save_dir)[:-keep] if keep else ():
        shutil.rmtree(old)


def _checkpoints(save_dir):
    names = [name for name in os.listdir(save_dir) if re.fullmatch(r"iter_\d+", name)]
    return [os.path.join(save_dir, name) for name in sorted(names, key=lambda name: int(name[5:]))]


def save_best(save_dir, model):
    """Writes <save_dir>/best_model/model.pdparams."""
    with atomic_path(os.path.join(save_dir, "best_model", _PARAMETERS)) as path:
        paddle.save(model.state_dict(), path)


def load_checkpoint(folder, model, optimizer):
    """Loads a checkpoint's parameters and optimizer, and returns its state.

    Raises:
        UserError: not a folder of `save_checkpoint`, a broken file, or one of another network.
    """
    try:
        with open(os.path.join(folder, _STATE), encoding="utf-8") as file:
            state = json.load(file)
    except OSError as error:
        raise UserError(f"--resume_model {folder} is no checkpoint folder such as output/iter_1000: {error}")
    except json.JSONDecodeError:
        raise UserError(f"{os.path.join(folder, _STATE)} is damaged: resume from another checkpoint")
    load_weights(model, os.path.join(folder, _PARAMETERS), strict=True)
    _set_optimizer_state(model, optimizer, read_weights(os.path.join(folder, _OPTIMIZER)))
    return state


# Paddle keys an optimizer's state by parameter names that count the layers made in a process (conv2d_7.w_0_velocity_0), so
# that they depend on what was made before. Checkpoints have the names of model.named_parameters() in their place.


def _optimizer_state(model, optimizer):
    renamed = {}
    for key, value in optimizer.state_dict().items():
        owners = [
            (name, parameter.name) for name, parameter in model.named_parameters() if key.startswith(parameter.name + "_")
        ]
        if owners:
            name, own = max(owners, key=lambda owner: len(owner[1]))
            key = f"{name}|{key[len(own) :]}"
        renamed[key] = value
    return renamed


def _set_optimizer_state(model, optimizer, state):
    own = {name: parameter.name for name, parameter in model.named_parameters()}
    renamed = {}
    for key, value in state.items():
        name, bar, rest = key.partition("|")
        renamed[own[name] + rest if bar else key] = value
    optimizer.set_state_dict(renamed)
