"""What several tests use."""

import json
import os
import subprocess
import sys

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
GOLDEN = os.path.join(ROOT, "tests", "golden")


def load_golden(name):
    """Returns the arrays of a golden file as a dict, `meta` decoded."""
    with np.load(os.path.join(GOLDEN, f"{name}.npz")) as file:
        arrays = dict(file)
    arrays["meta"] = json.loads(str(arrays["meta"]))
    return arrays


def golden_sizes(arrays):
    """Returns the input sizes, such as '9x13', that a golden file has."""
    return [key[:-2] for key in arrays if key.endswith("/x") and key[0].isdigit()]


def parameters(arrays, rename, group="sd"):
    """Returns a golden file's parameters under Paddle's names; `rename` is a list of (prefix, new prefix)."""
    result = {}
    for key, value in arrays.items():
        if key.startswith(group + "/"):
            name = key[len(group) + 1 :].replace("running_mean", "_mean").replace("running_var", "_variance")
            for old, new in rename:
                if name.startswith(old):
                    name = new + name[len(old) :]
                    break
            result[name] = value
    return result


def relative_error(actual, expected):
    """Returns ‖actual - expected‖ / ‖expected‖."""
    actual, expected = (np.asarray(value, np.float64) for value in (actual, expected))
    assert actual.shape == expected.shape
    return np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), 1e-30)


def run_python(arguments, **options):
    """Runs a fresh Python process in the repository, and returns it with its output as text.

    `env` adds to the environment, `environment` replaces it.
    """
    environment = options.pop("environment", {**os.environ, **options.pop("env", {})})
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environment, cwd=ROOT, **options
    )
