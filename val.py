"""Evaluate a network: python val.py --config configs/... --model_path output/best_model/model.pdparams"""

from paddleseg_psp.cli.val import main

if __name__ == "__main__":
    main()
