#!/usr/bin/env bash
# Prepares the data of a chain: bash test_tipc/prepare.sh test_tipc/configs/<model>/train_infer_python.txt <mode>
exec "$(dirname "$0")/run.sh" prepare "$@"
