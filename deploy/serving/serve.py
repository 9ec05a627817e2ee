"""Serves an exported bundle over HTTP.

python deploy/serving/serve.py --config output/inference_model/deploy.yaml --port 8000
curl --data-binary @street.png 'http://127.0.0.1:8000/predict?output=overlay' > overlay.png
"""

from dataclasses import fields

import uvicorn
from app import Limits, create_app

from paddleseg_psp.cli import bundle
from paddleseg_psp.cli.run import run
from paddleseg_psp.errors import UserError

_HELP = {
    "max_bytes": "bytes of an image's file",
    "max_pixels": "pixels of an image",
    "max_requests": "requests at once; more get 503",
    "max_batch": "images run together",
    "max_wait": "seconds that an image waits for others to run with",
    "timeout": "seconds until a request gets 504",
}


def main(argv=None):
    parser = bundle.parser("Serve an exported bundle over HTTP.")
    parser.add_argument("--host", default="127.0.0.1", help="address; 0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=int, default=8000)
    for field in fields(Limits):
        parser.add_argument(f"--{field.name}", type=field.type, default=field.default, help=_HELP[field.name])
    run(serve, parser.parse_args(argv))


def serve(args):
    limits = Limits(**{field.name: getattr(args, field.name) for field in fields(Limits)})
    for name, value in vars(limits).items():
        if value < (0 if name == "max_wait" else 1e-3):
            raise UserError(f"--{name} must be above 0, not {value}")
    predictor = bundle.loaded(args)
    if predictor.input_shape[1] not in (1, 3):
        raise UserError(f"{args.config}: images of {predictor.input_shape[1]} channels cannot be sent as pictures")
    # when asked to end, it answers the requests that it has
    uvicorn.run(create_app(predictor, limits), host=args.host, port=args.port, timeout_graceful_shutdown=int(args.timeout) + 1)


if __name__ == "__main__":
    main()
