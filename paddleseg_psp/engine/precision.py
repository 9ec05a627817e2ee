"""Mixed precision, so that one path through the loops serves float32, float16 and bfloat16."""

import paddle

DTYPES = {"fp32": None, "fp16": "float16", "bf16": "bfloat16"}


def autocast(precision, level="O1"):
    """Returns the context in which a network runs: does nothing for "fp32"."""
    return paddle.amp.auto_cast(
        enable=precision != "fp32",
        level=level,
        dtype=DTYPES[precision] or "float16",
    )


def gradient_scaler(precision):
    """Returns the loss scaler: does nothing unless "fp16", the one type whose gradients underflow."""
    return paddle.amp.GradScaler(enable=precision == "fp16", init_loss_scaling=1024)
