"""What the commands that run a bundle share: its arguments, by PaddleSeg's names, and loading it."""

from __future__ import annotations

import argparse

from paddleseg_psp.deploy import load_predictor
from paddleseg_psp.deploy.predictor import BACKENDS, PRECISIONS, Predictor


def switch(text: str) -> bool:
    """Returns whether a flag's value is True or False, in any case."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected True or False, not {text!r}")
    return text.lower() == "true"


def parser(description: str) -> argparse.ArgumentParser:
    """Returns a parser with the arguments about a bundle and what runs it."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--config", required=True, help="the bundle's deploy.yaml")
    result.add_argument(
        "--backend", default="paddle", choices=BACKENDS, help="what runs it; all but paddle need --onnx at export"
    )
    result.add_argument("--device", default="cpu", choices=["cpu", "gpu"])
    result.add_argument("--cpu_threads", type=int, help="threads on the CPU; all cores by default")
    result.add_argument(
        "--enable_mkldnn", type=switch, default=True, metavar="True|False", help="oneDNN on the CPU, with the backend paddle"
    )
    result.add_argument("--precision", default="fp32", choices=PRECISIONS, help="int8 needs onnxruntime and deploy/quantize.py")
    trust(result)
    result.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return result


def trust(parser: argparse.ArgumentParser) -> None:
    """Adds --trust-operators; see docs/security.md."""
    parser.add_argument(
        "--trust-operators", "--trust_operators", action="store_true",
        help="load the bundle's compiled operators, a program, where this machine cannot build its own",
    )  # fmt: skip


def loaded(args: argparse.Namespace) -> Predictor:
    """Returns the predictor that the arguments mean."""
    return load_predictor(
        args.config, args.backend, args.device, args.cpu_threads, args.enable_mkldnn, args.precision,
        trust_operators=args.trust_operators,
    )  # fmt: skip
