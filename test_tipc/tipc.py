"""Runs the chains that a TIPC file describes: train, evaluate, export, infer, compare.

python test_tipc/tipc.py prepare|test test_tipc/configs/<model>/train_infer_python.txt <mode>

A chain that failed or was interrupted goes on when it is repeated: steps that succeeded, and whose commands are the same, are
not run again, and a training that was cut off is resumed.
"""

import glob
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import namedtuple

TRAINING = ("lite_train_lite_infer", "lite_train_whole_infer", "whole_train_whole_infer")
INFERENCE = ("whole_infer", "paddle2onnx_infer", "serving_infer")  # of the weights in line 37
MODES = (*TRAINING, *INFERENCE, "benchmark_train")
DATA = "test_tipc/data/cityscapes"
DEMO_DATA = "data/demo_cityscapes"
LITE_IMAGES = 16  # of each split of the real data, in modes that train lightly

BENCHMARK_ITERS = 20

Step = namedtuple("Step", "name command seconds succeeded log earlier", defaults=[False])


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
        python, (script, *rest) = self.value(3), shlex.split(self.value(number))
        if script.startswith("tools/") and not os.path.exists(script):
            script = os.path.basename(script)  # where PaddleSeg has its entry points since 2.8
        # `python` means the one that runs this script
        return [sys.executable if python in ("", "python", "python3") else python, script, *rest]

    def benchmark(self):
        """Returns the settings below the header train_benchmark_params: key -> list of values."""
        headers = [number for number, line in enumerate(self._lines) if "train_benchmark_params" in line[0]]
        if not headers:
            raise TipcError(f"{self.path}: benchmark_train needs lines below a header train_benchmark_params")
        settings = [line for line in self._lines[headers[0] + 1 :] if len(line) > 1]
        return {line[0].strip(): line[1].strip().split("|") for line in settings}


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
        self._record = os.path.join(output, "unfinished.json")
        self._earlier = self._read_record()
        open(self.results_log, "w").close()
        self._done, self._current = {}, None
        self._write_record()

    def run(self, name, command, log_name):
        """Runs a command, its output going to a log and to the terminal, unless it succeeded earlier. Returns its Step."""
        log = os.path.join(self.output, log_name)
        key = f"{log}: {shlex.join(command)}"
        if key in self._earlier["done"] and os.path.exists(log):
            step = Step(name, command, self._earlier["done"][key], True, log, earlier=True)
            print(f"--- {name}: succeeded earlier, see {log}", flush=True)
        else:
            self._current = key
            self._write_record()
            step = self._run_now(name, command, log)
        self.steps.append(step)
        verdict = "Run successfully" if step.succeeded else "Run failed"
        status = f" {verdict} with command - {self.tipc.model} - {shlex.join(command)} - {log} "
        print(status, flush=True)
        with open(self.results_log, "a", encoding="utf-8") as file:
            file.write(status + "\n")
        if step.succeeded:
            self._done[key] = step.seconds
            self._write_record()
        return step

    def _run_now(self, name, command, log):
        os.makedirs(os.path.dirname(log), exist_ok=True)
        print(f"--- {name}: {shlex.join(command)}", flush=True)
        began = time.monotonic()
        with open(log, "w", encoding="utf-8") as file:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
            for line in process.stdout:
                file.write(line)
                file.flush()
                print(line, end="", flush=True)
        return Step(name, command, time.monotonic() - began, process.wait() == 0, log)

    def _read_record(self):
        try:
            with open(self._record, encoding="utf-8") as file:
                return json.load(file)
        except (OSError, ValueError):
            return {"done": {}, "current": None}

    def _write_record(self):
        with open(self._record + ".new", "w", encoding="utf-8") as file:
            json.dump({"done": {**self._earlier["done"], **self._done}, "current": self._current}, file, indent=1)
        os.replace(self._record + ".new", self._record)

    def finish(self):
        """Prints the table. Returns whether all steps succeeded; then the next run starts afresh."""
        print(f"\n{self.tipc.model}, {self.tipc.mode}:\n{self.table()}", flush=True)
        succeeded = bool(self.steps) and all(step.succeeded for step in self.steps)
        if succeeded:
            os.unlink(self._record)
        return succeeded

    def train(self, cards, device, precision):
        """Trains, evaluates, exports and infers; a failed step ends this chain."""
        tipc = self.tipc
        name = f"norm_train_gpus_{cards.replace(',', '_')}_autocast_{precision or 'null'}"
        folder = os.path.join(self.output, name)
        command = self.training_command(cards, device, precision, folder)
        if not self._train(command, folder, f"{name}.log").succeeded:
            return
        weights = os.path.join(folder, tipc.value(11))
        evaluation = self.evaluate(weights, name)
        if evaluation.succeeded:
            self.export_and_infer(tipc.command(30), weights, folder, name, evaluation.log)

    def training_command(self, cards, device, precision, folder):
        """Returns the command that trains on cards such as "0", "0,1", "-1" (the CPU) or "-1,-1" (two processes on it)."""
        tipc, command = self.tipc, self.tipc.command(16)
        numbers = cards.split(",")
        if len(numbers) > 1:
            place = ["--nproc_per_node", str(len(numbers)), "--backend", "gloo"] if numbers[0] == "-1" else [f"--gpus={cards}"]
            logs = ["--log_dir", os.path.join(self.output, "launch")]
            command[1:1] = ["-m", "paddle.distributed.launch", *logs, *place]
        command += tipc.argument(5, device) + tipc.argument(6, precision)
        command += tipc.argument(7) + tipc.argument(8, folder) + tipc.argument(9)
        return command + tipc.argument(10) + tipc.argument(13)

    def _train(self, command, folder, log_name):
        key = f"{os.path.join(self.output, log_name)}: {shlex.join(command)}"
        if key in self._earlier["done"]:
            return self.run("train", command, log_name)
        resumed = [*command, "--resume_model", "auto"]
        cut_off = self._earlier["current"] in (key, f"{os.path.join(self.output, log_name)}: {shlex.join(resumed)}")
        if cut_off and glob.glob(os.path.join(glob.escape(folder), "iter_*")):
            return self.run("train", resumed, log_name)
        shutil.rmtree(folder, ignore_errors=True)  # an earlier run's weights cannot pass for this one's
        return self.run("train", command, log_name)

    def evaluate(self, weights, name):
        """Evaluates weights before they are exported; its log has the metrics that inference must reach."""
        return self.run("evaluate", self.tipc.command(24) + self.tipc.argument(10, weights), f"{name}_eval.log")

    def export_and_infer(self, command, weights, folder, name, metric_file):
        """Exports weights to a folder, infers with each combination of lines 41 to 46, and compares the metrics."""
        if self.export(command, weights, folder, name):
            for choice in self.matrix():
                self.infer(choice, folder, metric_file)

    def export(self, command, weights, folder, name, *more):
        """Exports weights to a folder. Returns whether that succeeded."""
        command = command + self.tipc.argument(28, folder) + self.tipc.argument(29, weights)
        return self.run("export", [*command, *more], f"{name}_export.log").succeeded

    def matrix(self):
        """Returns the combinations of lines 41 to 46 that make sense, as PaddleSeg chooses them.

        oneDNN and threads concern the CPU, TensorRT the GPU; lower precision needs oneDNN or TensorRT.
        """
        kept = []
        for device, onednn, threads, batch, tensorrt, precision in itertools.product(
            *map(self.tipc.alternatives, range(41, 47))
        ):
            if device == "cpu":
                tensorrt = "False"
            else:
                onednn, threads = "False", self.tipc.alternatives(43)[0]
            if precision in ("", "fp32") or "True" in (onednn, tensorrt):
                kept.append((device, onednn, threads, batch, tensorrt, precision))
        return list(dict.fromkeys(kept))

    def infer(self, choice, folder, metric_file, *more, log_prefix="python_infer"):
        """Infers with one combination and compares the metrics of the maps with those of the evaluation."""
        tipc, (device, onednn, threads, batch, tensorrt, precision) = self.tipc, choice
        settings = f"usemkldnn_{onednn}_threads_{threads}" if device == "cpu" else f"usetrt_{tensorrt}"
        log = f"{log_prefix}_{device}_{settings}_precision_{precision}_batchsize_{batch}"
        results = os.path.join(self.output, f"{log}_results")
        arguments = [item for number, value in zip(range(41, 47), choice) for item in tipc.argument(number, value)]
        arguments += tipc.argument(47, os.path.join(folder, "deploy.yaml")) + tipc.argument(48)
        arguments += tipc.argument(50) + tipc.argument(51, results) + tipc.argument(52)
        if self.run("infer", [*tipc.command(40), *arguments, *more], f"{log}.log").succeeded:
            self.compare(metric_file, results, f"{log}_compare.log")

    def compare(self, metric_file, results, log_name):
        """Compares the metrics of class maps with those of an evaluation's log, where line 25 says how."""
        if self.tipc.value(25):
            self.run("compare", [*self.tipc.command(25), f"--metric_file={metric_file}", f"--predict_dir={results}"], log_name)

    def serve(self, folder, metric_file):
        """Sends the images of line 48 to a service of the exported network, and compares the metrics of its answers."""
        results = os.path.join(self.output, "serving_results")
        command = [sys.executable, "test_tipc/serving.py", "--config", os.path.join(folder, "deploy.yaml")]
        command += ["--image_path", self.tipc.value(48), "--save_dir", results]
        if self.run("serve", command, "serving.log").succeeded:
            self.compare(metric_file, results, "serving_compare.log")

    def benchmark(self, cards, device):
        """Trains a little with each batch size and precision of the file, and writes benchmark.json: images a second."""
        settings, figures = self.tipc.benchmark(), []
        iters = settings.get("iters", [str(BENCHMARK_ITERS)])[0]
        for batch, precision in itertools.product(settings.get("batch_size", ["2"]), settings.get("fp_items", ["fp32"])):
            name = f"benchmark_train_gpus_{cards.replace(',', '_')}_bs{batch}_{precision}"
            folder = os.path.join(self.output, name)
            command = [item for item in self.training_command(cards, device, precision, folder) if item != "--do_eval"]
            command = [item for item in command if not item.startswith(("--iters", "--batch_size"))]
            command += [f"--iters={iters}", f"--batch_size={batch}", "--log_iters=1", f"--save_interval={iters}"]
            step = self._train(command, folder, f"{name}.log")
            if step.succeeded:
                with open(step.log, encoding="utf-8", errors="replace") as file:
                    speeds = [float(value) for value in re.findall(r"\[TRAIN\].*?ips: ([\d.]+)", file.read())]
                steady = sorted(speeds[len(speeds) // 4 :])  # the first iterations warm up
                figures.append(
                    {"batch_size": int(batch), "precision": precision, "cards": cards, "ips": steady[len(steady) // 2]}
                )
        with open(os.path.join(self.output, "benchmark.json"), "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=1)
        for figure in figures:
            print("batch size {batch_size}, {precision}, cards {cards}: {ips:.2f} images a second".format(**figure), flush=True)

    def table(self):
        """Returns the steps as a table."""
        rows = [f"{'step':<10} {'seconds':>8}  {'verdict':<8} {'log':<100} command"]
        for step in self.steps:
            verdict = "earlier" if step.earlier else "ok" if step.succeeded else "FAILED"
            command = shlex.join([os.path.basename(step.command[0]), *step.command[1:]])
            rows.append(f"{step.name:<10} {step.seconds:>8.1f}  {verdict:<8} {step.log:<100} {command}")
        return "\n".join(rows)


def test(tipc):
    """Runs the chains of a file. Returns whether all steps succeeded."""
    chain = Chain(tipc, os.path.join("test_tipc/output", tipc.model, tipc.mode))
    devices = list(zip(tipc.alternatives(4), tipc.alternatives(5)))
    if tipc.mode in INFERENCE:
        for index, weights in enumerate(tipc.alternatives(37)):
            _infer_only(chain, weights, f"{tipc.mode}_{index}")
    elif tipc.mode == "benchmark_train":
        for cards, device in devices:
            chain.benchmark(cards, device)
    else:
        for (cards, device), precision in itertools.product(devices, tipc.alternatives(6)):
            chain.train(cards, device, precision)
    return chain.finish()


def _infer_only(chain, weights, name):
    """Evaluates given weights, exports them, and infers as the mode says."""
    tipc, folder = chain.tipc, os.path.join(chain.output, name)
    evaluation = chain.evaluate(weights, name)
    if not evaluation.succeeded:
        return
    command = tipc.command(38)
    if tipc.mode == "whole_infer":
        chain.export_and_infer(command, weights, folder, name, evaluation.log)
    elif tipc.mode == "serving_infer":
        if chain.export(command, weights, folder, name):
            chain.serve(folder, evaluation.log)
    elif chain.export(command, weights, folder, name, "--onnx"):
        for choice in dict.fromkeys(
            (device, "False", threads, batch, "False", "fp32") for device, _, threads, batch, *_ in chain.matrix()
        ):
            chain.infer(choice, folder, evaluation.log, "--backend=onnxruntime", log_prefix="onnx_infer")


def prepare(tipc):
    """Puts data at DATA: the real Cityscapes of $CITYSCAPES_ROOT (a few images of it in lite modes), or else the demo's."""
    root = os.environ.get("CITYSCAPES_ROOT")
    if root and not os.path.isdir(os.path.join(root, "leftImg8bit")):
        raise TipcError(f"CITYSCAPES_ROOT={root} has no folder leftImg8bit")
    _remove_links(DATA)
    if root and (tipc.mode.startswith("lite") or tipc.mode in ("benchmark_train", *INFERENCE[1:])):
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
