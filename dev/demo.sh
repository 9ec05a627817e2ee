#!/usr/bin/env bash
# The demo: lite training, evaluation, export and inference of one model, then a picture. Arguments: psanet or pspnet, the picture.
set -euo pipefail
model=$1 picture=$2 mode=lite_train_lite_infer
description=test_tipc/configs/$model/train_infer_python.txt
bash test_tipc/prepare.sh "$description" $mode
bash test_tipc/test_train_inference_python.sh "$description" $mode
results=test_tipc/output/$model/$mode
data=test_tipc/data/cityscapes
python predict.py --config "configs/$model/${model}_resnet18_demo.yml" --device cpu --image_path $data/leftImg8bit/val \
    --model_path "$results/norm_train_gpus_-1_autocast_null/best_model/model.pdparams" --save_dir "$results/predict"
python tools/compare_predictions.py --image_dir $data/leftImg8bit/val --label_dir $data/gtFine/val --save_path "$picture" \
    --prediction "trained network=$results/predict/pseudo_color_prediction" \
    --prediction "exported network=$results/python_infer_cpu_usemkldnn_True_threads_2_precision_fp32_batchsize_1_results"
