"""Metrics of an exported bundle on a configuration's val_dataset: read, prepare, run, compare.

python deploy/python/evaluate.py --config output/inference_model/deploy.yaml --dataset configs/... --batch_size 4
"""

from paddleseg_psp.cli import bundle
from paddleseg_psp.cli.run import run
from paddleseg_psp.config import Config
from paddleseg_psp.deploy.evaluation import evaluate_bundle
from paddleseg_psp.engine.evaluator import log_metrics
from paddleseg_psp.errors import UserError


def parse_arguments(argv=None):
    parser = bundle.parser("Evaluate an exported bundle on a labelled data set.")
    parser.add_argument("--dataset", required=True, help="a configuration whose val_dataset has the images and labels")
    parser.add_argument("--opts", nargs="+", metavar="KEY=VALUE", help="override values of that configuration")
    parser.add_argument("--batch_size", type=int, default=1, help="images run together; only those of one size can be")
    return parser.parse_args(argv)


def evaluate(args):
    if args.batch_size < 1:
        raise UserError("--batch_size must be at least 1")
    dataset = Config(args.dataset, args.opts).build_dataset("val_dataset")
    matrix = evaluate_bundle(bundle.loaded(args), dataset, args.batch_size)
    log_metrics(matrix, len(dataset), getattr(dataset, "CLASS_NAMES", None))


def main(argv=None):
    run(evaluate, parse_arguments(argv))


if __name__ == "__main__":
    main()
