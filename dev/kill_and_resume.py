"""Kills a training again and again, resumes it each time, and compares its end with that of one left alone, bit for bit.

python dev/kill_and_resume.py --kills 30 -- --config configs/psanet/psanet_resnet18_demo.yml --iters 60 --save_interval 5 \
    --num_workers 2

What follows -- goes to train.py. SIGKILL comes at random moments of the start and of the training, and every third time while
a checkpoint is being written. Exits with 1 if a checkpoint is lost or a parameter differs.
"""

import argparse
import glob
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np

from paddleseg_psp.commands.run import run
from paddleseg_psp.engine.checkpoint import damage, find_checkpoints
from paddleseg_psp.errors import UserError
from paddleseg_psp.models.weights import read_weights

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SAVE_SECONDS = 0.3  # a kill during a save comes this long after its start at most


def start(arguments, save_dir):
    """Starts train.py in a process group of its own, its output in <save_dir>.log."""
    command = [sys.executable, os.path.join(ROOT, "train.py"), *arguments, "--save_dir", save_dir, "--resume_model", "auto"]
    with open(f"{save_dir}.log", "a") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def finish(arguments, save_dir):
    """Trains without a kill and returns the seconds it took."""
    begun = time.monotonic()
    if start(arguments, save_dir).wait():
        raise UserError(f"the training failed; {save_dir}.log says why")
    return time.monotonic() - begun


def kill_at(process, seconds, save_dir=None):
    """Kills a training after so many seconds, of its next save if save_dir is given; returns False if it had ended."""
    while save_dir and process.poll() is None and not glob.glob(os.path.join(save_dir, f".{process.pid}.*iter_*")):
        time.sleep(0.001)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    if process.returncode:
        raise UserError(f"the training failed by itself with exit code {process.returncode}")
    return False


def newest(save_dir):
    """Returns the iteration of the newest whole checkpoint, 0 without any."""
    whole = [folder for folder in find_checkpoints(save_dir) if damage(folder) is None]
    return int(os.path.basename(whole[0]).split("_")[1].split(".")[0]) if whole else 0


def differences(first, second):
    """Returns the names of files and entries that differ between the last checkpoints of two trainings."""
    folders = [find_checkpoints(save_dir)[0] for save_dir in (first, second)]
    wrong = []
    for name in sorted(name for name in os.listdir(folders[0]) if name.startswith(("model", "average"))):
        contents = [read_weights(os.path.join(folder, name)) for folder in folders]
        wrong += [f"{name}: {key}" for key in contents[0].keys() ^ contents[1].keys()]
        for key in contents[0].keys() & contents[1].keys():
            values = [np.asarray(content[key]) for content in contents]
            if values[0].tobytes() != values[1].tobytes() and not (
                values[0].dtype == object and contents[0][key] == contents[1][key]
            ):
                wrong.append(f"{name}: {key}")
    return wrong


def main(argv=None):
    parser = argparse.ArgumentParser(description="Kill and resume a training, and compare its end with one left alone.")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--work_dir", default="output/kill_and_resume")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("arguments", nargs="+", help="for train.py, after --")
    run(_experiment, parser, argv)


def _experiment(args):
    shutil.rmtree(args.work_dir, ignore_errors=True)
    os.makedirs(args.work_dir)
    arguments, moments = ["--device", "cpu", "--seed", "0", *args.arguments], random.Random(args.seed)
    left_alone, killed = (os.path.join(args.work_dir, name) for name in ("left_alone", "killed"))
    seconds = finish(arguments, left_alone)
    print(f"Left alone, the training takes {seconds:.0f} s", flush=True)
    kills = rounds = 0
    while kills < args.kills:
        shutil.rmtree(killed, ignore_errors=True)
        kept, ended = 0, False
        while kills < args.kills and not ended:
            during_save = kills % 3 == 2
            process = start(arguments, killed)
            delay = moments.uniform(0, SAVE_SECONDS if during_save else 0.7 * seconds)
            ended = not kill_at(process, delay, killed if during_save else None)
            kills += not ended
            if newest(killed) < kept:
                raise UserError(f"kill {kills} lost the checkpoint of iteration {kept}")
            kept = newest(killed)
            if not ended:
                where = "of a save" if during_save else "after the start"
                print(f"Kill {kills}/{args.kills} {delay:.2f} s {where}: iteration {kept} is kept", flush=True)
        finish(arguments, killed)
        rounds += 1
        wrong = differences(left_alone, killed)
        if wrong:
            raise UserError(f"{len(wrong)} entries differ from the training left alone, e.g. {wrong[0]}")
    print(f"{kills} kills in {rounds} trainings: nothing lost, and each ended in the same bits as the one left alone")


if __name__ == "__main__":
    main()
