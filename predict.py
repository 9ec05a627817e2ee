"""Predict images: python predict.py --config configs/... --model_path ... --image_path ..."""

from paddleseg_psp.cli.predict import main

if __name__ == "__main__":
    main()
