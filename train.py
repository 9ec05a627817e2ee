"""Train a network: python train.py --config configs/... --do_eval --use_vdl"""

from paddleseg_psp.cli.train import main

if __name__ == "__main__":
    main()
