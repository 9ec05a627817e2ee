"""Starting a run: from the beginning, or from a checkpoint."""

from __future__ import annotations

import os
import re
import shutil

from paddleseg_psp import environment
from paddleseg_psp.config.yaml import parse_yaml
from paddleseg_psp.engine import distributed
from paddleseg_psp.engine.checkpoint import BEST, Checkpoints, Progress, find_checkpoints, newest_checkpoint
from paddleseg_psp.errors import UserError
from paddleseg_psp.files import atomic_path, remove_left_overs
from paddleseg_psp.log import logger

_OF_A_RUN = (BEST, "config.yml", "environment.txt", "metrics.jsonl", "curves.png", "validation")


def start(checkpoints: Checkpoints, save_dir: str, resume_model: str | None, fresh: Progress) -> Progress:
    """Loads the checkpoint to resume from, if any, and returns the run's Progress.

    Files that would be overwritten are moved to save_dir/previous_<k>: all of an earlier run if this one starts from the
    beginning, or the checkpoints newer than the one to resume from.

    Args:
        checkpoints: of the run.
        resume_model: a checkpoint folder, "auto" for the newest whole one in save_dir, or None.
        fresh: of a run that starts afresh.

    Raises:
        UserError: a checkpoint that is damaged or of another network, or processes that see different ones.
    """
    folder = newest_checkpoint(save_dir) if resume_model == "auto" else resume_model
    progress = fresh if folder is None else checkpoints.load(folder)
    if len({*distributed.gather([progress.iteration]).ravel()}) > 1:
        raise UserError(f"the processes found different checkpoints: --save_dir {save_dir} must be one folder that all see")
    if folder is not None:
        logger.info(f"Resuming from {folder}, saved after iteration {progress.iteration}")
        _tell_differences(progress.config, fresh.config)
        progress.config = fresh.config
        if progress.seed != fresh.seed:
            logger.info(f"The seed is {progress.seed}, as before")
    elif resume_model:
        logger.info(f"There is no checkpoint in {save_dir} yet: starting from the beginning")
    if distributed.rank() == 0:
        _tidy(save_dir, folder, progress.iteration, auto=resume_model == "auto")
        _describe(save_dir, progress.config)
    distributed.wait_for_all()
    return progress


def _tidy(save_dir, folder, iteration, auto):
    os.makedirs(save_dir, exist_ok=True)
    for killed in (save_dir, os.path.join(save_dir, BEST)):
        remove_left_overs(killed)
    own = folder is not None and os.path.samefile(os.path.dirname(os.path.abspath(folder)), save_dir)
    if own:
        newer = [path for path in find_checkpoints(save_dir) if _iteration(path) > iteration]
        _set_aside(save_dir, map(os.path.basename, newer))
        return
    checkpoints = [os.path.basename(path) for path in find_checkpoints(save_dir)]
    if checkpoints or (not auto and os.path.exists(os.path.join(save_dir, BEST))):
        logs = [name for name in os.listdir(save_dir) if name in _OF_A_RUN or name.startswith("vdlrecords.")]
        _set_aside(save_dir, [*checkpoints, *logs])
    best = os.path.join(os.path.dirname(os.path.abspath(folder)), BEST) if folder else ""
    if os.path.isdir(best):  # a run that resumes elsewhere keeps its best model
        shutil.copytree(best, os.path.join(save_dir, BEST))


def _describe(save_dir, config):
    """Writes the resolved configuration and the environment beside the checkpoints."""
    for name, text in (("config.yml", config), ("environment.txt", "\n".join(environment.describe()) + "\n")):
        if text:
            path = os.path.join(save_dir, name)
            with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(text)  # paths need not be UTF-8


def _iteration(folder):
    return int(re.search(r"\d+", os.path.basename(folder))[0])


def _set_aside(save_dir, names):
    names = list(names)
    if not names:
        return
    number = 1
    while os.path.exists(target := os.path.join(save_dir, f"previous_{number}")):
        number += 1
    os.makedirs(target)
    for name in names:
        os.rename(os.path.join(save_dir, name), os.path.join(target, name))
    logger.warning(f"Moved what an earlier run had left in {save_dir} to {target}, so that it is not overwritten")


def _tell_differences(before, now):
    """Logs which keys of the configuration changed since the checkpoint."""
    try:
        before, now = (_flat(parse_yaml(text, "its configuration")) if text else {} for text in (before, now))
    except UserError as error:
        logger.warning(f"The configuration cannot be compared with the checkpoint's: {error}")
        return
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if changed:
        logger.warning(f"The configuration differs from the checkpoint's: {', '.join(changed)}")


def _flat(value, prefix=""):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {prefix[:-1]: value}
    return {name: leaf for key, item in items for name, leaf in _flat(item, f"{prefix}{key}.").items()}
