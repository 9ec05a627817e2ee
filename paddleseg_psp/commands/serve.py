"""Serves an exported bundle over HTTP.

python deploy/serving/serve.py --config output/inference_model/deploy.yaml --port 8000
curl --data-binary @street.png 'http://127.0.0.1:8000/predict?output=overlay' > overlay.png
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import resource
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import fields

from paddleseg_psp.bundle.description import read_description
from paddleseg_psp.commands import bundle_arguments
from paddleseg_psp.commands.run import run
from paddleseg_psp.errors import UserError
from paddleseg_psp.log import logger
from paddleseg_psp.service.capacity import largest_image

try:
    import uvicorn

    from paddleseg_psp.service.app import Limits, create_app
    from paddleseg_psp.service.hosts import AllowedHosts
    from paddleseg_psp.service.protocol import Guard, GuardedProtocol
except ModuleNotFoundError as missing:  # the other commands do without them
    sys.exit(
        f"Error: the service needs {missing.name}: pip install 'paddleseg-psp[serving]', or in the repository pip install -r "
        "deploy/serving/requirements.txt"
    )

_HELP = {
    "max_bytes": "largest image file in bytes",
    "max_pixels": "most pixels of an image, and of a batch; default: as many as take 20 s or a quarter of the free memory",
    "max_requests": "most requests that wait with a complete image; more get 503",
    "max_held": "most bytes of all image files that wait or arrive; more get 503",
    "max_batch": "images run together",
    "max_wait": "seconds that an image waits to join a batch",
    "timeout": "seconds until a request gets 504",
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = bundle_arguments.parser("Serve an exported bundle over HTTP.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 accepts other machines")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--allow",
        nargs="+",
        default=[],
        metavar="NAME",
        help="host names to answer to, besides addresses, localhost and --host; * is all",
    )
    for field in fields(Limits):
        default = None if field.name == "max_pixels" else field.default
        parser.add_argument(f"--{field.name}", type=type(field.default), default=default, help=_HELP[field.name])
    run(serve, parser, argv)


def serve(args: argparse.Namespace) -> None:
    given = {field.name: getattr(args, field.name) for field in fields(Limits) if getattr(args, field.name) is not None}
    for name, value in given.items():
        if not value >= (0 if name == "max_wait" else 1e-3):
            raise UserError(f"--{name} must be above 0, not {value}")
    if args.max_held < args.max_bytes:
        raise UserError(f"--max_held {args.max_held} must be at least --max_bytes {args.max_bytes}")
    predictor = bundle_arguments.loaded(args)
    if predictor.input_shape[1] not in (1, 3):
        raise UserError(f"{args.config}: images of {predictor.input_shape[1]} channels cannot be sent as pictures")
    if "max_pixels" not in given:
        given["max_pixels"], reason = _measured(args)
        logger.info(f"Images may have {given['max_pixels']} pixels (--max_pixels): {reason}")
    app = create_app(predictor, Limits(**given), args.debug)
    # asyncio takes several backlogs of connections before one of them can be ended, and without files left it logs without end
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    connections, backlog = max(min(files // 2, 1024), 1), max(min(files // 16, 128), 1)
    guard = Guard(connections, dropped=app.state.dropped)
    uvicorn.run(
        AllowedHosts(app, args.host, args.allow),
        host=args.host,
        port=args.port,
        http=functools.partial(GuardedProtocol, guard=guard),  # type: ignore[arg-type]
        ws="none",
        backlog=backlog,
        timeout_graceful_shutdown=int(args.timeout) + 1,  # when asked to end, it answers the requests that it has
    )


def _measured(args):
    """Returns what `largest_image` does, in a separate process, which frees its memory and may be killed."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, args).result()
        except BrokenProcessPool:
            raise UserError("the process that measured what images may take was killed; name --max_pixels (262144 is 512x512)")


def _measure(args):
    description = read_description(args.config)
    # a PSANet, or a network of which nothing is known
    attends = "mask_size" in description or "multiply_adds_per_pixel" not in description
    return largest_image(bundle_arguments.loaded(args), attends)
