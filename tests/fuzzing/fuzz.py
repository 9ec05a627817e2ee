"""Reads mutated files in a process of their own, and reports which of them crash, hang, take memory or do more than read.

python tests/fuzzing/fuzz.py --count 1000000 --seed 7 --save_dir findings

runs for some twenty minutes on two cores. First come the hostile files that were built by hand, then mutations of small
valid files, which are functions of the seed, the format and a number; so a finding is repeated by

python tests/fuzzing/fuzz.py --format pth --seed 7 --only 1234

A file may give a result or a UserError of one line. All else is a finding: another exception, a signal, more than 5 s of
processor time, more memory than 10 times the file and 100 MB, and whatever Python's audit events tell besides reading: files
written, processes, sockets, code compiled or run, modules imported.
"""

import argparse
import collections
import encodings
import functools
import importlib
import json
import os
import pkgutil
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback

import cv2
from mutations import mutated
from PIL import Image
from samples import hostile, valid

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
FORMATS = {
    "pdparams": "a.pdparams",
    "pdopt": "a.pdopt",
    "pth": "a.pth",
    "stream": "a.pth",
    "ckpt": "a.ckpt",
    "safetensors": "a.safetensors",
    "config": "a.py",
    "note": "metrics.json",
    "image": "a.png",
    "npy": "a.npy",
    "label": "a.png",
    "deploy": "deploy.yaml",
    "labelme": "a.json",
    "polygons": "a_gtFine_polygons.json",
}
SECONDS = 5
_PIXELS = {"image", "label", "labelme", "polygons"}
_CHUNK, _SHARE = 3000, 12  # files of a format at a time, and formats of a process
_SLACK = 16 * 2**20  # of the allocator, which takes memory in large pieces


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", choices=FORMATS, nargs="+", default=list(FORMATS))
    parser.add_argument("--count", type=int, default=10000, help="mutations of all formats together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="a mutation's number; negative: a hostile file's")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--save_dir", help="gets the files that are findings")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        _read_many(args.seed, args.child)
    report = fuzz(args.format, args.count, args.seed, args.jobs, args.save_dir, args.only)
    print(json.dumps(report, indent=1))
    return bool(report["findings"])


def fuzz(formats, count, seed=0, jobs=2, save_dir=None, only=None):
    """Returns a report {mutations, hostile, seconds, largest_memory (bytes), outcomes, findings: [{format, number, what}]}."""
    start, each = time.time(), -(-count // len(formats))
    work = [(kind, -len(hostile(kind)), 0) for kind in formats if hostile(kind)]
    work += [(kind, first, min(first + _CHUNK, each)) for first in range(0, each, _CHUNK) for kind in formats]
    if only is not None:
        work = [(kind, only, only + 1) for kind in formats]
    report = {
        "mutations": 0,
        "hostile": 0,
        "seconds": 0,
        "largest_memory": 0,
        "outcomes": collections.Counter(),
        "findings": [],
    }
    shares = [
        share for first in range(0, len(work), _SHARE * jobs) for share in _dealt(work[first : first + _SHARE * jobs], jobs)
    ]
    running = []
    while shares or running:
        while shares and len(running) < jobs:
            running.append(_Child(seed, shares.pop(0)))
        for child in [child for child in running if child.process.poll() is not None]:
            running.remove(child)
            lines, left = child.results()
            for line in lines:
                report["largest_memory"] = max(report["largest_memory"], line.pop("memory", 0))
                report["outcomes"].update(line.pop("outcomes", {}))
                report["findings"] += [{"seed": seed, **line}] if line else []
            if left:
                shares.insert(0, left)
        time.sleep(0.05)
    report["hostile"] = sum(last - first for _, first, last in work if first < 0)
    report["mutations"] = sum(last - first for _, first, last in work if first >= 0)
    report["seconds"] = round(time.time() - start)
    for finding in report["findings"] if save_dir else ():
        _save(finding, save_dir)
    return report


def _dealt(work, jobs):
    return [work[job::jobs] for job in range(jobs) if work[job::jobs]]


def _save(finding, folder):
    os.makedirs(folder, exist_ok=True)
    name = "{format}_{seed}_{number}".format(**finding)
    with open(os.path.join(folder, name), "wb") as file:
        file.write(_content(finding["format"], finding["seed"], finding["number"]))
    with open(os.path.join(folder, name + ".json"), "w") as file:
        json.dump(finding, file, indent=1)


class _Child:
    """A process that reads files, (format, first, last) at a time, and what came of it."""

    def __init__(self, seed, work):
        self.work, self.folder = work, tempfile.TemporaryDirectory()
        with open(os.path.join(self.folder.name, "errors"), "wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, os.path.abspath(__file__), "--seed", str(seed), "--child", json.dumps(work)],
                cwd=self.folder.name,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join((ROOT, os.environ.get("PYTHONPATH", ""))),
                    "OMP_NUM_THREADS": "1",
                },
            )

    def _text(self, name):
        with open(os.path.join(self.folder.name, name), errors="replace") as file:
            return file.read()

    def results(self):
        """Returns what was found, and the work that is left where a file ended the process."""
        if self.process.returncode > 0:
            raise RuntimeError(f"the fuzzer itself failed: {self._text('errors')[-1500:]}")
        lines = [json.loads(line) for line in self._text("results").splitlines()]
        if self.process.returncode == 0:
            return lines, []
        place, number = map(int, self._text("progress").split())
        kind, _, last = self.work[place]
        ended = signal.Signals(-self.process.returncode).name
        what = f"more than {SECONDS} s" if ended == "SIGPROF" else f"{ended} {self._text('errors')[-500:]}"
        lines.append({"format": kind, "number": number, "what": what, "file": _what(kind, number)})
        return lines, [(kind, number + 1, last)] * (number + 1 < last) + self.work[place + 1 :]


def _what(kind, number):
    return sorted(hostile(kind))[number] if number < 0 else ""


@functools.lru_cache(maxsize=1)
def _bases(kind):
    return valid()[kind], valid()[kind] + [content for content in hostile(kind).values() if len(content) < 2000]


def _content(kind, seed, number):
    """Returns a hostile file, by a negative number, or a mutation; every fourth may be one of a hostile file."""
    if number < 0:
        return hostile(kind)[_what(kind, number)]
    return mutated(kind, _bases(kind)[number % 4 == 0], random.Random(f"{seed}:{kind}:{number}"))


def _reader(kind):
    """Returns what reads a file as a user of the package would."""
    from paddle import nn

    from paddleseg_psp import registry
    from paddleseg_psp.bundle.description import read_description
    from paddleseg_psp.commands import convert_cityscapes, labelme2seg
    from paddleseg_psp.convert.conversion import read_checkpoint
    from paddleseg_psp.convert.mmsegmentation_config import read_config
    from paddleseg_psp.data.reading.decoding import read_image, read_label_values
    from paddleseg_psp.engine.views import Views
    from paddleseg_psp.errors import UserError
    from paddleseg_psp.models.weights import load_weights, read_weights

    layer = nn.Linear(2, 3)

    def weights(path):
        read_weights(path)
        load_weights(layer, path)

    def checkpoint(path):
        arrays, meta = read_checkpoint(path)
        [array.copy() for array in arrays.values()]
        str(meta), read_config(meta.get("cfg"))

    def config(path):
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            str(read_config(file.read()))

    def note(path):
        read_weights("model.pdparams")

    def image(path):
        for channels in (3, 1, 4):
            try:
                read_image(path, channels)
            except UserError as error:
                last = error
            else:
                last = None
        if last:
            raise last

    def deploy(path):
        description = read_description(path)
        Views.from_options(description.get("test_config") or {})
        [registry.build_transform(spec, "transforms") for spec in description["transforms"]]

    def annotation(read, path):
        try:
            read(path)
        except Exception as error:  # as make_labels does
            raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}")

    readers = {
        "deploy": deploy,
        "labelme": functools.partial(annotation, labelme2seg.Reader({"car": 1, "road": 2})),
        "polygons": functools.partial(annotation, convert_cityscapes.read_label),
        "config": config,
        "note": note,
        "image": image,
        "npy": read_image,
        "label": read_label_values,
        "safetensors": weights,
    }
    return readers.get(kind, weights if kind.startswith("pd") else checkpoint)


def _read_many(seed, work):
    """Reads files in this process; writes what is found into `results`, and before each its place into `progress`."""
    progress = os.open("progress", os.O_CREAT | os.O_WRONLY)
    peak = os.open("/proc/self/clear_refs", os.O_WRONLY)
    results, events = open("results", "w", buffering=1), _watch()
    _import_all()
    os.mkdir("files")
    os.chdir("files")
    with open("model.pdparams", "wb") as file:  # that notes are beside
        file.write(valid()["pdparams"][0])
    for place, (kind, first, last) in enumerate(work):
        read, outcomes, largest = _reader(kind), collections.Counter(), 0
        for content in valid()[kind] * 2:  # imports what is imported at first use
            _outcome(read, kind, content, _Events())
        for number in range(first, last):
            content = _content(kind, seed, number)
            os.pwrite(progress, b"%d %-20d" % (place, number), 0)
            os.pwrite(peak, b"5", 0)  # what was the most memory is forgotten
            base = _peak()
            outcome = _outcome(read, kind, content, events)
            grown = _peak() - base
            largest = max(largest, grown)
            if grown > _most(kind, content):
                outcome = f"{grown} bytes of memory for a file of {len(content)}"
            if outcome in ("read", "refused"):
                outcomes[outcome] += 1
            else:
                results.write(
                    json.dumps({"format": kind, "number": number, "what": outcome, "file": _what(kind, number)}) + "\n"
                )
        results.write(json.dumps({"memory": largest * (kind not in _PIXELS), "outcomes": outcomes}) + "\n")
    results.flush()
    os._exit(0)  # without what libraries do at exit


def _import_all():
    """Imports what libraries import when it is needed."""
    for module in pkgutil.iter_modules(encodings.__path__):
        if module.name not in ("mbcs", "oem"):  # of Windows
            importlib.import_module(f"encodings.{module.name}")
    Image.init()
    cv2.setNumThreads(1)


def _most(kind, content):
    """Returns how many bytes of memory a file may take: an image as its size says, of at most 2**30 pixels, read and copied."""
    return 2**31 if kind in _PIXELS else 100 * 2**20 + 10 * len(content)


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _limited(size):
    """Lets this process take so many bytes of memory more; None: any."""
    limit = resource.RLIM_INFINITY
    if size is not None:
        with open("/proc/self/statm") as file:
            limit = int(file.read().split()[5]) * resource.getpagesize() + size + _SLACK
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))


def _outcome(read, kind, content, events):
    """Writes and reads a file; returns "read", "refused", or what is wrong."""
    from paddleseg_psp.errors import UserError

    with open(FORMATS[kind], "wb") as file:
        file.write(content)
    events.clear()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # it ends the process
    _limited(_most(kind, content))
    error, events.armed = None, True
    try:
        read(FORMATS[kind])
    except Exception as raised:
        error = raised
    events.armed = False
    _limited(None)
    signal.setitimer(signal.ITIMER_PROF, 0)
    if events:
        return f"it did {sorted(set(events))[:5]}"
    if error is None:
        return "read"
    for cause in _causes(error):
        if not isinstance(error, UserError) or (isinstance(cause, MemoryError) and kind not in _PIXELS):
            return "".join(traceback.format_exception(type(cause), cause, cause.__traceback__)[-4:])[-900:]
    return "refused" if str(error).isprintable() else f"a message of several lines: {error}"


def _causes(error):
    while error is not None:
        yield error
        error = error.__context__


class _Events(list):
    armed = False


def _watch():
    """Returns a list that gets what this process does besides reading, while it is armed."""
    events = _Events()
    harmless = {
        "compile",  # as ast.parse does; what is run is an event of its own
        "object.__getattr__",
        "sys._getframe",
        "builtins.id",
        "os.listdir",
        "os.scandir",
        "sys.excepthook",
        "cpython._PySys_ClearAuditHooks",
        "array.__new__",
        "mmap.__new__",
    }

    def hook(event, arguments):
        if not events.armed or event in harmless:
            return
        if (
            event == "open"
            and not (isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"))
            and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        ):
            return
        events.append(f"{event} {str(arguments)[:100]}")

    sys.addaudithook(hook)
    return events


if __name__ == "__main__":
    sys.exit(main())
