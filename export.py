"""Export a network: python export.py --config configs/... --model_path ... --save_dir output/inference_model"""

from paddleseg_psp.cli.export import main

if __name__ == "__main__":
    main()
