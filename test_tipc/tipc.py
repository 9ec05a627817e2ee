"""Runs the chains that a TIPC file describes: train, evaluate, export, infer, compare.

python test_tipc/tipc.py prepare|test test_tipc/configs/<model>/train_infer_python.txt <mode>
"""

import glob
import itertools
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections import namedtuple

MODES = ("lite_train_lite_infer", "lite_train_whole_infer", "whole_train_whole_infer", "whole_infer")
DATA = "test_tipc/data/cityscapes"
DEMO_DATA = "data/demo_cityscapes"
LITE_IMAGES = 16  # of each split of the real data, in modes that train lightly

Step = namedtuple("Step", "name command seconds succeeded log")


class TipcError(Exception):
    """What is wrong with the file or the mode, in words for the user."""


class TipcFile:
    """A TIPC file: `key:value` lines that are known by their number, from 1.

    Only the text between the first and the second colon counts. `|` separates alternatives, `MODE=value` holds in that mode
    alone, and `null` means that an argument is left out.
    """

    def __init__(self, path, mode):
        if mode not in MODES:
            raise TipcError(f"there is no mode {mode!r}; the modes are {', '.join(MODES)}")
        try:
            with open(path, encoding="utf-8") as file:
                self._lines = [line.rstrip("\n").split(":") for line in file]
        except OSError as error:
            raise TipcError(f"{path} cannot be read: {error.strerror}")
        self.path, self.mode = path, mode
        self.model = self.value(2)

    def _line(self, number):
        if number > len(self._lines) or len(self._lines[number - 1]) < 2:
            raise TipcError(f"{self.path}:{number}: expected 'key:value'")
        return self._lines[number - 1]

    def value(self, number):
        """Returns the value of a line, "" for null."""
        value = self._line(number)[1].strip()
        return "" if value == "null" else value

    def alternatives(self, number):
        """Returns the values of a line that hold in this mode, [""] if there is none."""
        items = []
        for item in self.value(number).split("|"):
            mode, equals, value = item.partition("=")
            if not equals or mode not in MODES:
                items.append("" if item == "null" else item)
            elif mode == self.mode:
                items.append(value)
        return items or [""]

    def argument(self, number, value=None):
        """Returns a line as ['--key=value'], or [] without a value; `value` replaces the line's own."""
        value = self.alternatives(number)[0] if value is None else value
        key = self._line(number)[0].strip()
        return [f"{key}={value}"] if value and key.startswith("-") else []

    def command(self, number):
        """Returns the command of a line as arguments, starting with the Python interpreter."""
        if not self.value(number):
            raise TipcError(f"{self.path}:{number}: there is no command for {self._line(number)[0]!r}")
        python = self.value(3)
        # `python` means the one that runs this script
        return [sys.executable if python in ("", "python", "python3") else python, *shlex.split(self.value(number))]


class Chain:
    """Runs steps, writes their logs and status lines, and keeps a table of them.

    Args:
        tipc (TipcFile): the description.
        output (str): folder for logs and results.
    """

    def __init__(self, tipc, output):
        self.tipc, self.output, self.steps = tipc, output, []
        os.makedirs(output, exist_ok=True)
        self.results_log = os.path.join(output, "results_python.log")
        open(self.results_log, "w").close()

    def run(self, name, command, log_name):
        """Runs a command, its output going to a log and to the terminal. Returns its Step."""
        log = os.path.join(self.output, log_name)
        os.makedirs(os.path.dirname(log), exist_ok=True)
        print(f"--- {name}: {shlex.join(command)}", flush=True)
        began = time.monotonic()
        with open(log, "w", encoding="utf-8") as file:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
            for line in process.stdout:
                file.write(line)
                file.flush()
                print(line, end="", flush=True)
        step = Step(name, command, time.monotonic() - began, process.wait() == 0, log)
        self.steps.append(step)
        verdict = "Run successfully" if step.succeeded else "Run failed"
        status = f" {verdict} with command - {self.tipc.model} - {shlex.join(command)} - {log} "
        print(status, flush=True)
        with open(self.results_log, "a", encoding="utf-8") as file:
            file.write(status + "\n")
        return step

    def train(self, cards, device, precision):
        """Trains, evaluates, exports and infers; a failed step ends this chain."""
        tipc = self.tipc
        name = f"norm_train_gpus_{cards.replace(',', '_')}_autocast_{precision or 'null'}"
        folder = os.path.join(self.output, name)
        command = tipc.command(16)
        if "," in cards:
            command[1:1] = ["-m", "paddle.distributed.launch", f"--gpus={cards}"]
        command += tipc.argument(5, device) + tipc.argument(6, precision)
        command += tipc.argument(7) + tipc.argument(8, folder) + tipc.argument(9)
        command += tipc.argument(10) + tipc.argument(13)
        shutil.rmtree(folder, ignore_errors=True)  # an earlier run's weights cannot pass for this one's
        if not self.run("train", command, f"{name}.log").succeeded:
            return
        weights = os.path.join(folder, tipc.value(11))
        evaluation = self.run("evaluate", tipc.command(24) + tipc.argument(10, weights), f"{name}_eval.log")
        if evaluation.succeeded:
            self.export_and_infer(tipc.command(30), weights, folder, name, evaluation.log)

    def export_and_infer(self, command, weights, folder, name, metric_file=None):
        """Exports weights to a folder and infers with every combination of lines 41 to 46."""
        tipc = self.tipc
        command = command + tipc.argument(28, folder) + tipc.argument(29, weights)
        if not self.run("export", command, f"{name}_export.log").succeeded:
            return
        for choice in itertools.product(*(tipc.alternatives(number) for number in range(41, 47))):
            device, onednn, threads, batch, tensorrt, precision = choice
            settings = f"usemkldnn_{onednn}_threads_{threads}" if device == "cpu" else f"usetrt_{tensorrt}"
            log = f"python_infer_{device}_{settings}_precision_{precision}_batchsize_{batch}"
            results = os.path.join(self.output, f"{log}_results")
            arguments = [item for number, value in zip(range(41, 47), choice) for item in tipc.argument(number, value)]
            arguments += tipc.argument(47, os.path.join(folder, "deploy.yaml")) + tipc.argument(48)
            arguments += tipc.argument(50) + tipc.argument(51, results) + tipc.argument(52)
            succeeded = self.run("infer", tipc.command(40) + arguments, f"{log}.log").succeeded
            if succeeded and metric_file and tipc.value(25):
                comparison = tipc.command(25) + [f"--metric_file={metric_file}", f"--predict_dir={results}"]
                self.run("compare", comparison, f"{log}_compare.log")

    def table(self):
        """Returns the steps as a table."""
        rows = [f"{'step':<10} {'seconds':>8}  {'verdict':<8} log"]
        for step in self.steps:
            rows.append(f"{step.name:<10} {step.seconds:>8.1f}  {'ok' if step.succeeded else 'FAILED':<8} {step.log}")
        return "\n".join(rows)


def test(tipc):
    """Runs the chains of a file. Returns whether all steps succeeded."""
    chain = Chain(tipc, os.path.join("test_tipc/output", tipc.model, tipc.mode))
    if tipc.mode == "whole_infer":
        for index, weights in enumerate(tipc.alternatives(37)):
            folder = os.path.join(chain.output, f"whole_infer_{index}")
            chain.export_and_infer(tipc.command(38), weights, folder, f"whole_infer_{index}")
    else:
        devices = zip(tipc.alternatives(4), tipc.alternatives(5))
        for (cards, device), precision in itertools.product(devices, tipc.alternatives(6)):
            chain.train(cards, device, precision)
    print(f"\n{tipc.model}, {tipc.mode}:\n{chain.table()}", flush=True)
    return all(step.succeeded for step in chain.steps)


def prepare(tipc):
    """Puts data at DATA: the real Cityscapes of $CITYSCAPES_ROOT (a few images of it in lite modes), or else the demo's."""
    root = os.environ.get("CITYSCAPES_ROOT")
    if root and not os.path.isdir(os.path.join(root, "leftImg8bit")):
        raise TipcError(f"CITYSCAPES_ROOT={root} has no folder leftImg8bit")
    _remove_links(DATA)
    if root and tipc.mode.startswith("lite"):
        _link_some(root)
    elif root:
        _link(root, DATA)
    else:
        subprocess.run([sys.executable, "tools/make_demo_data.py", f"--save_dir={DEMO_DATA}"], check=True)
        _link(DEMO_DATA, DATA)
    print(f"{tipc.model}, {tipc.mode}: {DATA} shows {root or DEMO_DATA}")
    return True


def _link_some(root):
    for split in ("train", "val"):
        images = sorted(glob.glob(os.path.join(glob.escape(root), "leftImg8bit", split, "*", "*_leftImg8bit.png")))
        for image in images[:LITE_IMAGES]:
            label = image.replace("leftImg8bit", "gtFine").replace("_gtFine.png", "_gtFine_labelTrainIds.png")
            for file in (image, label):
                _link(file, os.path.join(DATA, os.path.relpath(file, root)))


def _link(target, link):
    os.makedirs(os.path.dirname(link), exist_ok=True)
    os.symlink(os.path.abspath(target), link)


def _remove_links(path):
    """Removes the links below a path and the folders that held only them; a file of someone's stops it."""
    if os.path.islink(path):
        os.unlink(path)
    elif os.path.isdir(path):
        for name in os.listdir(path):
            _remove_links(os.path.join(path, name))
        os.rmdir(path)
    elif os.path.exists(path):
        raise TipcError(f"{path} is a file that this script did not make; move it away")


def main(arguments):
    actions = {"prepare": prepare, "test": test}
    if len(arguments) != 3 or arguments[0] not in actions:
        sys.exit(__doc__.strip())
    try:
        succeeded = actions[arguments[0]](TipcFile(arguments[1], arguments[2]))
    except TipcError as error:
        sys.exit(f"Error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"Error: {shlex.join(error.cmd)} failed")
    if not succeeded:
        sys.exit("Error: a step failed; its log is in the table above")


if __name__ == "__main__":
    main(sys.argv[1:])
