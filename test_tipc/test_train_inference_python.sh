#!/usr/bin/env bash
# Train, evaluate, export, infer: bash test_tipc/test_train_inference_python.sh test_tipc/configs/<model>/train_infer_python.txt <mode>
exec "$(dirname "$0")/run.sh" test "$@"
