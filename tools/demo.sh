#!/usr/bin/env bash
# The demo: lite training, evaluation, export and inference of one model, then a picture. Arguments: model name, TIPC file.
set -euo pipefail
model=$1 config=$2 mode=lite_train_lite_infer
bash test_tipc/prepare.sh "$config" $mode
bash test_tipc/test_train_inference_python.sh "$config" $mode
results=test_tipc/output/$model/$mode
training=$results/norm_train_gpus_-1_autocast_null
data=test_tipc/data/cityscapes
python predict.py --config "configs/$model/${model}_resnet18_demo.yml" --model_path "$training/best_model/model.pdparams" \
    --image_path $data/leftImg8bit/val --save_dir "$results/predict" --device cpu
python tools/compare_predictions.py --image_dir $data/leftImg8bit/val --label_dir $data/gtFine/val \
    --prediction "trained network=$results/predict/pseudo_color_prediction" \
    --prediction "exported network=$results/python_infer_cpu_usemkldnn_True_threads_2_precision_fp32_batchsize_1_results" \
    --save_path "$results/$model.png"
