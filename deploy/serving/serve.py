"""Serves an exported bundle over HTTP.

python deploy/serving/serve.py --config output/inference_model/deploy.yaml --port 8000
curl --data-binary @street.png 'http://127.0.0.1:8000/predict?output=overlay' > overlay.png
"""

import functools
import multiprocessing
import resource
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import fields

import uvicorn
from app import Limits, create_app
from hosts import AllowedHosts
from protocol import Guard, GuardedProtocol

from paddleseg_psp.cli import bundle
from paddleseg_psp.cli.run import run
from paddleseg_psp.deploy.capacity import largest_image
from paddleseg_psp.deploy.description import read_description
from paddleseg_psp.errors import UserError
from paddleseg_psp.log import logger

_HELP = {
    "max_bytes": "bytes of an image's file",
    "max_pixels": "pixels of an image, and of those run together; by default what takes 20 s or a quarter of the free memory",
    "max_requests": "requests at once whose images are there; more get 503",
    "max_held": "bytes of all images' files that are there or on their way; more get 503",
    "max_batch": "images run together",
    "max_wait": "seconds that an image waits for others to run with",
    "timeout": "seconds until a request gets 504",
}


def main(argv=None):
    parser = bundle.parser("Serve an exported bundle over HTTP.")
    parser.add_argument("--host", default="127.0.0.1", help="address; 0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--allow",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names it answers to beside addresses, localhost and --host; * is all",
    )
    for field in fields(Limits):
        default = None if field.name == "max_pixels" else field.default
        parser.add_argument(f"--{field.name}", type=field.type, default=default, help=_HELP[field.name])
    run(serve, parser.parse_args(argv))


def serve(args):
    given = {field.name: getattr(args, field.name) for field in fields(Limits) if getattr(args, field.name) is not None}
    for name, value in given.items():
        if not value >= (0 if name == "max_wait" else 1e-3):
            raise UserError(f"--{name} must be above 0, not {value}")
    if args.max_held < args.max_bytes:
        raise UserError(f"--max_held {args.max_held} must be at least --max_bytes {args.max_bytes}")
    predictor = bundle.loaded(args)
    if predictor.input_shape[1] not in (1, 3):
        raise UserError(f"{args.config}: images of {predictor.input_shape[1]} channels cannot be sent as pictures")
    if "max_pixels" not in given:
        given["max_pixels"], reason = _measured(args)
        logger.info(f"Images may have {given['max_pixels']} pixels (--max_pixels): {reason}")
    app = create_app(predictor, Limits(**given), args.debug)
    # asyncio takes several backlogs of connections before one of them can be ended, and without files left it logs without end
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    connections, backlog = max(min(files // 2, 1024), 1), max(min(files // 16, 128), 1)
    uvicorn.run(
        AllowedHosts(app, args.host, args.allow),
        host=args.host,
        port=args.port,
        http=functools.partial(GuardedProtocol, guard=Guard(connections, dropped=app.state.dropped)),
        ws="none",
        backlog=backlog,
        timeout_graceful_shutdown=int(args.timeout) + 1,  # when asked to end, it answers the requests that it has
    )


def _measured(args):
    """Returns what `largest_image` does, found out in a process that gives the memory back and may be killed for it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, args).result()
        except BrokenProcessPool:
            raise UserError("the process that measured what images may take was killed; name --max_pixels (262144 is 512x512)")


def _measure(args):
    description = read_description(args.config)
    # a PSANet, or a network of which nothing is known
    attends = "mask_size" in description or "multiply_adds_per_pixel" not in description
    return largest_image(bundle.loaded(args), attends)


if __name__ == "__main__":
    main()
