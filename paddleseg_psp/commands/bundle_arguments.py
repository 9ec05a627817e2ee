"""Arguments of the commands that run a bundle, by PaddleSeg's names, and loading the bundle."""

from __future__ import annotations

import argparse

from paddleseg_psp.bundle import load_predictor
from paddleseg_psp.bundle.predictor import BACKENDS, PRECISIONS, Predictor

PRECISION_HELP = "bf16: faster on CPUs with AVX512_BF16 or AMX, in paddle and openvino; int8: after deploy/quantize.py"
EMULATE_HELP = "use bf16 even if the processor has to emulate it"


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
        "--backend", default="paddle", choices=BACKENDS, help="inference engine; all but paddle need export --onnx"
    )
    result.add_argument("--device", default="cpu", choices=["cpu", "gpu"])
    result.add_argument("--cpu_threads", type=int, help="CPU threads; default: all cores")
    result.add_argument(
        "--enable_mkldnn", type=switch, default=True, metavar="True|False", help="oneDNN on the CPU, with the backend paddle"
    )
    result.add_argument("--precision", default="fp32", choices=PRECISIONS, help=PRECISION_HELP)
    result.add_argument("--emulate", action="store_true", help=EMULATE_HELP)
    trust(result)
    return result


def trust(parser: argparse.ArgumentParser) -> None:
    """Adds --trust-operators; see docs/security.md."""
    parser.add_argument(
        "--trust-operators", "--trust_operators", action="store_true",
        help="run the compiled operators in the bundle (a program) if this machine cannot compile its own",
    )  # fmt: skip


def loaded(args: argparse.Namespace) -> Predictor:
    """Returns the predictor that the arguments mean."""
    return load_predictor(
        args.config, args.backend, args.device, args.cpu_threads, args.enable_mkldnn, args.precision,
        trust_operators=args.trust_operators, emulate=args.emulate,
    )  # fmt: skip
