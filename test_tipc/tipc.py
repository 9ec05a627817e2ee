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
import signal
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
LISTED = os.path.join(DATA, "cityscapes_val_5.list")  # the images that PaddleSeg's own files infer

BENCHMARK_ITERS = 20

# The lines whose commands a mode cannot do without: train, export, infer; export of given weights.
_COMMANDS = {
    **dict.fromkeys(TRAINING, (16, 30, 40)),
    "whole_infer": (38, 40),
    "paddle2onnx_infer": (38, 40),
    "serving_infer": (38,),
    "benchmark_train": (16,),
}

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

    def check(self):
        """Finds what the mode cannot do before any of it runs.

        Raises:
            TipcError: a command or the interpreter is missing, or another training than the normal one, or quantization, is
                wanted.
        """
        if shutil.which(self.python()) is None:
            raise TipcError(f"{self.path}:3: there is no interpreter {self.value(3)}")
        self.devices()
        needed = _COMMANDS[self.mode]
        if self.mode != "benchmark_train" and self.value(25):
            needed = (*needed, 24)  # whose metrics line 25 compares with
        for number in needed:
            self.command(number)
        if 16 in needed and self.value(15) not in ("norm", "norm_train"):
            raise TipcError(f"{self.path}:15: the trainer must be norm_train, not {self.value(15)!r}")
        if self.mode in INFERENCE and self.value(39).lower() not in ("", "false"):
            raise TipcError(f"{self.path}:39: infer_quant must be False; deploy/quantize.py quantizes")
        if self.mode == "benchmark_train":
            self.benchmark()

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
        script, *rest = shlex.split(self.value(number))
        if script.startswith("tools/") and not os.path.exists(script):
            script = os.path.basename(script)  # where PaddleSeg has its entry points since 2.8
        return [self.python(), script, *rest]

    def devices(self):
        """Returns the pairs of lines 4 and 5, cards and the value of the flag for the device; one value goes with all cards."""
        cards, devices = self.alternatives(4), self.alternatives(5)
        if len(devices) not in (1, len(cards)):
            raise TipcError(f"{self.path}:5: expected one value, or one for each of the {len(cards)} of line 4")
        return list(zip(cards, devices * len(cards) if len(devices) == 1 else devices))

    def python(self):
        """Returns the interpreter of line 3. Any `python3.7` that is named there is the one that runs this script."""
        python = self.value(3)
        return sys.executable if re.fullmatch(r"(python[\d.]*)?", python) else python

    def benchmark(self):
        """Returns the settings below the header train_benchmark_params: key -> list of values."""
        headers = [number for number, line in enumerate(self._lines) if "train_benchmark_params" in line[0]]
        if not headers:
            raise TipcError(f"{self.path}: benchmark_train needs lines below a header train_benchmark_params")
        settings = [line for line in self._lines[headers[0] + 1 :] if len(line) > 1]
        return {line[0].strip(): line[1].strip().split("|") for line in settings}


class Runner:
    """Runs the commands of a chain, writes their logs and status lines, and keeps a table of them.

    Args:
        model (str): name in the status lines.
        output (str): folder for the logs. What was done is kept there until all of it has succeeded.
    """

    def __init__(self, model, output):
        self.model, self.output, self.steps = model, output, []
        os.makedirs(output, exist_ok=True)
        self._results_log, self._record = (os.path.join(output, name) for name in ("results_python.log", "unfinished.json"))
        open(self._results_log, "w").close()
        self._done, self._current = self._read_record()

    def was_done(self, command, log_name):
        """Returns whether this command succeeded when the chain ran before."""
        return self._key(command, log_name) in self._done

    def was_cut_off(self, command, log_name):
        """Returns whether this command was the one at which the chain ended before."""
        return self._key(command, log_name) == self._current

    def run(self, name, command, log_name, *more):
        """Runs a command, its output going to a log and to the terminal, unless it succeeded earlier.

        Args:
            name (str): of the step.
            command (list): the arguments.
            log_name (str): of a file in the output folder.
            more (str): further arguments, by which the command is not told from others.

        Returns:
            Step: what ran.
        """
        log, key = os.path.join(self.output, log_name), self._key(command, log_name)
        if key in self._done and os.path.exists(log):
            step = Step(name, command, self._done[key], True, log, earlier=True)
            print(f"--- {name}: succeeded earlier, see {log}", flush=True)
        else:
            self._current = key
            self._write_record()
            step = self._run_now(name, [*command, *more], log)
        self.steps.append(step)
        verdict = "Run successfully" if step.succeeded else "Run failed"
        status = f" {verdict} with command - {self.model} - {shlex.join(step.command)} - {log} "
        print(status, flush=True)
        with open(self._results_log, "a", encoding="utf-8") as file:
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
            try:
                for line in process.stdout:
                    file.write(line)
                    file.flush()
                    print(line, end="", flush=True)
            except BaseException:  # whoever ends this script ends the step too
                process.terminate()
                process.wait()
                raise
        return Step(name, command, time.monotonic() - began, process.wait() == 0, log)

    def _key(self, command, log_name):
        return f"{os.path.join(self.output, log_name)}: {shlex.join(command)}"

    def _read_record(self):
        try:
            with open(self._record, encoding="utf-8") as file:
                record = json.load(file)
            return record["done"], record["current"]
        except (OSError, ValueError):
            return {}, None

    def _write_record(self):
        with open(self._record + ".new", "w", encoding="utf-8") as file:
            json.dump({"done": self._done, "current": self._current}, file, indent=1)
        os.replace(self._record + ".new", self._record)

    def finish(self):
        """Prints the table. Returns whether all steps succeeded; then the next run starts afresh."""
        print(f"\n{self.output}:\n{self.table()}", flush=True)
        succeeded = bool(self.steps) and all(step.succeeded for step in self.steps)
        if succeeded:
            os.unlink(self._record)
        return succeeded

    def table(self):
        """Returns the steps as a table."""
        rows = [f"{'step':<10} {'seconds':>8}  {'verdict':<8} {'log':<100} command"]
        for step in self.steps:
            verdict = "earlier" if step.earlier else "ok" if step.succeeded else "FAILED"
            command = shlex.join([os.path.basename(step.command[0]), *step.command[1:]])
            rows.append(f"{step.name:<10} {step.seconds:>8.1f}  {verdict:<8} {step.log:<100} {command}")
        return "\n".join(rows)


class Chain:
    """The steps of a file in its mode.

    Args:
        tipc (TipcFile): the description.
        output (str): folder for logs and results.
    """

    def __init__(self, tipc, output):
        self.tipc, self.output = tipc, output
        self.runner = Runner(tipc.model, output)
        self._several = False  # trainings, or weights

    def run(self):
        """Runs the steps of the mode. Returns whether all succeeded."""
        tipc = self.tipc
        trainings = list(itertools.product(tipc.devices(), tipc.alternatives(6)))
        if tipc.mode in INFERENCE:
            self._several = len(tipc.alternatives(37)) > 1
            for index, weights in enumerate(tipc.alternatives(37)):
                self.infer_given(weights, f"{tipc.mode}_{index}")
        elif tipc.mode == "benchmark_train":
            self.benchmark()
        else:
            self._several = len(trainings) > 1
            for (cards, device), precision in trainings:
                self.train(cards, device, precision)
        return self.runner.finish()

    def train(self, cards, device, precision):
        """Trains, evaluates, exports, infers and compares; a failed step ends this."""
        tipc = self.tipc
        name = f"norm_train_gpus_{cards.replace(',', '_')}_autocast_{precision or 'null'}"
        folder = os.path.join(self.output, name)
        weights = os.path.join(folder, tipc.value(11))
        if self._train(self.training_command(cards, device, precision, folder), folder, f"{name}.log").succeeded:
            if self.evaluate(weights, name) and self.export(tipc.command(30), weights, folder, name):
                self.infer_all(folder, name)

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

    def _train(self, command, folder, log):
        if self.runner.was_cut_off(command, log) and glob.glob(os.path.join(glob.escape(folder), "iter_*")):
            return self.runner.run("train", command, log, "--resume_model", "auto")
        if not self.runner.was_done(command, log):
            shutil.rmtree(folder, ignore_errors=True)  # an earlier run's weights cannot pass for this one's
        return self.runner.run("train", command, log)

    def infer_given(self, weights, name):
        """Evaluates given weights, exports them, and infers and compares as the mode says."""
        tipc, folder = self.tipc, os.path.join(self.output, name)
        onnx = ["--onnx"] if tipc.mode == "paddle2onnx_infer" else []
        if self.evaluate(weights, name) and self.export(tipc.command(38) + onnx, weights, folder, name):
            infer = {"whole_infer": self.infer_all, "paddle2onnx_infer": self.infer_onnx, "serving_infer": self.serve}
            infer[tipc.mode](folder, name)

    def evaluate(self, weights, name):
        """Evaluates weights before they are exported, where line 24 says how. Returns whether that succeeded."""
        if not self.tipc.value(24):
            return True
        command = self.tipc.command(24) + self.tipc.argument(10, weights)
        return self.runner.run("evaluate", command, self._evaluation(name)).succeeded

    def _evaluation(self, name):
        return f"{name}_eval.log"

    def export(self, command, weights, folder, name):
        """Exports weights to a folder. Returns whether that succeeded."""
        command = command + self.tipc.argument(28, folder) + self.tipc.argument(29, weights)
        return self.runner.run("export", command, f"{name}_export.log").succeeded

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

    def infer_all(self, folder, name):
        """Infers with Paddle Inference, by each combination of lines 41 to 46, and compares."""
        for choice in self.matrix():
            self.infer(choice, folder, name)

    def infer_onnx(self, folder, name):
        """Infers with ONNX Runtime, by each device, number of threads and batch size, and compares."""
        for choice in dict.fromkeys(
            (device, "False", threads, batch, "False", "fp32") for device, _, threads, batch, *_ in self.matrix()
        ):
            self.infer(choice, folder, name, "--backend=onnxruntime", log_prefix="onnx_infer")

    def infer(self, choice, folder, name, *more, log_prefix="python_infer"):
        """Infers with one combination and compares the metrics of the maps with those of the evaluation."""
        tipc, (device, onednn, threads, batch, tensorrt, precision) = self.tipc, choice
        settings = f"usemkldnn_{onednn}_threads_{threads}" if device == "cpu" else f"usetrt_{tensorrt}"
        arguments = [item for number, value in zip(range(41, 47), choice) for item in tipc.argument(number, value)]
        arguments += [item for number in (48, 49, 50, 52) for item in tipc.argument(number)]
        log = f"{log_prefix}_{device}_{settings}_precision_{precision}_batchsize_{batch}"
        self._maps("infer", [*tipc.command(40), *arguments, *more], folder, name, log)

    def serve(self, folder, name):
        """Sends the images of line 48 to a service of the exported network, and compares the metrics of its answers."""
        command = [self.tipc.python(), "test_tipc/serving.py", f"--image_path={self.tipc.value(48)}"]
        self._maps("serve", command, folder, name, "serving")

    def _maps(self, step, command, folder, name, log):
        """Writes class maps by a command, and compares their metrics with the evaluation's where line 25 says how."""
        log = f"{name}_{log}" if self._several else log
        results = os.path.join(self.output, f"{log}_results")
        command = command + self.tipc.argument(47, os.path.join(folder, "deploy.yaml")) + self.tipc.argument(51, results)
        if not self.runner.was_done(command, f"{log}.log"):
            shutil.rmtree(results, ignore_errors=True)  # an earlier run's maps cannot pass for this one's
        if self.runner.run(step, command, f"{log}.log").succeeded and self.tipc.value(25):
            files = [f"--metric_file={os.path.join(self.output, self._evaluation(name))}", f"--predict_dir={results}"]
            self.runner.run("compare", self.tipc.command(25) + files, f"{log}_compare.log")

    def benchmark(self):
        """Trains a little with each batch size and precision of the file, and writes benchmark.json: images a second."""
        settings, figures = self.tipc.benchmark(), []
        choices = itertools.product(self.tipc.devices(), settings.get("batch_size", ["2"]), settings.get("fp_items", ["fp32"]))
        for (cards, device), batch, precision in choices:
            step = self._train_a_little(cards, device, batch, precision, settings.get("iters", [str(BENCHMARK_ITERS)])[0])
            if step.succeeded:
                with open(step.log, encoding="utf-8", errors="replace") as file:
                    speeds = [float(value) for value in re.findall(r"\[TRAIN\].*?ips: ([\d.]+)", file.read())]
                steady = sorted(speeds[len(speeds) // 4 :])  # the first iterations warm up
                ips = steady[len(steady) // 2]
                figures.append({"batch_size": int(batch), "precision": precision, "cards": cards, "ips": ips})
        with open(os.path.join(self.output, "benchmark.json"), "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=1)
        for figure in figures:
            print("batch size {batch_size}, {precision}, cards {cards}: {ips:.2f} images a second".format(**figure), flush=True)

    def _train_a_little(self, cards, device, batch, precision, iters):
        name = f"benchmark_train_gpus_{cards.replace(',', '_')}_bs{batch}_{precision}"
        folder = os.path.join(self.output, name)
        command = [item for item in self.training_command(cards, device, precision, folder) if item != "--do_eval"]
        command += [f"--iters={iters}", f"--batch_size={batch}", "--log_iters=1", f"--save_interval={iters}"]
        return self._train(command, folder, f"{name}.log")


def test(tipc):
    """Runs the chain of a file. Returns whether all steps succeeded."""
    return Chain(tipc, os.path.join("test_tipc/output", tipc.model, tipc.mode)).run()


def prepare(tipc):
    """Puts data at DATA: the real Cityscapes of $CITYSCAPES_ROOT (a few images of it in lite modes), or else the demo's."""
    root = os.environ.get("CITYSCAPES_ROOT")
    if root and not os.path.isdir(os.path.join(root, "leftImg8bit")):
        raise TipcError(f"CITYSCAPES_ROOT={root} has no folder leftImg8bit")
    if os.path.isfile(LISTED):
        os.unlink(LISTED)
    _remove_links(DATA)
    if not root:
        subprocess.run([sys.executable, "tools/make_demo_data.py", f"--save_dir={DEMO_DATA}"], check=True)
    if root and (tipc.mode.startswith("lite") or tipc.mode in ("benchmark_train", *INFERENCE[1:])):
        for split in ("train", "val"):
            for pair in _pairs(root, split)[:LITE_IMAGES]:
                for file in pair:
                    _link(os.path.join(root, file), os.path.join(DATA, file))
    else:
        for folder in ("leftImg8bit", "gtFine"):
            _link(os.path.join(root or DEMO_DATA, folder), os.path.join(DATA, folder))
    with open(LISTED, "w", encoding="utf-8") as file:
        file.writelines(f"{image} {label}\n" for image, label in _pairs(DATA, "val")[:5])
    print(f"{tipc.model}, {tipc.mode}: {DATA} shows {root or DEMO_DATA}")
    return True


def _pairs(root, split):
    """Returns the images and labels of a split of Cityscapes, as paths below its root."""
    found = sorted(glob.glob(os.path.join(glob.escape(root), "leftImg8bit", split, "*", "*_leftImg8bit.png")))
    images = [os.path.relpath(image, root) for image in found]
    return [(i, i.replace("leftImg8bit", "gtFine").replace("_gtFine.png", "_gtFine_labelTrainIds.png")) for i in images]


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
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # the running step ends with this script
    try:
        tipc = TipcFile(arguments[1], arguments[2])
        tipc.check()
        succeeded = actions[arguments[0]](tipc)
    except TipcError as error:
        sys.exit(f"Error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"Error: {shlex.join(error.cmd)} failed")
    if not succeeded:
        sys.exit("Error: a step failed; its log is in the table above")


if __name__ == "__main__":
    main(sys.argv[1:])
