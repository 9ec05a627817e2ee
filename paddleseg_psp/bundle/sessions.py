"""The engines that run a bundle, behind one interface: `run` takes a batch [N, C, H, W] float32 and returns an output."""

from __future__ import annotations

from typing import Union

import numpy as np
import paddle
from paddle import inference

from paddleseg_psp.errors import UserError

# Optimizations with oneDNN that go wrong; its fused convolutions, which make it fast, need neither.
_BROKEN_PASSES = (
    "onednn_placement_pass",  # moves single operators to oneDNN: bilinear resizing fails, or returns wrong values
    "operator_reshape_onednn_fuse_pass",  # drops a reshape behind a transpose, and the graph no longer loads
)


class PaddleSession:
    """Paddle Inference.

    Args:
        graph, parameters: files.
        device: "cpu" or "gpu".
        threads: on the CPU.
        onednn: use oneDNN's kernels on the CPU.
        bfloat16: let oneDNN multiply in bfloat16.

    Raises:
        UserError: it cannot load the files, there is no GPU for it, or bfloat16 without oneDNN.
    """

    def __init__(self, graph: str, parameters: str, device: str, threads: int, onednn: bool, bfloat16: bool = False) -> None:
        if bfloat16 and not onednn:
            raise UserError("bf16 in Paddle Inference needs oneDNN: leave --enable_mkldnn True")
        if device == "gpu" and not (paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count()):
            raise UserError("device gpu: this Paddle has no GPU; choose cpu, or install paddlepaddle-gpu where one is")
        config = inference.Config(graph, parameters)
        config.disable_glog_info()
        if device == "gpu":
            config.enable_use_gpu(256, 0)
        else:
            config.disable_gpu()
            config.set_cpu_math_library_num_threads(threads)
            if onednn:
                config.enable_mkldnn()
                if bfloat16:
                    config.enable_mkldnn_bfloat16()
                for name in _BROKEN_PASSES:
                    config.delete_pass(name)
            else:
                config.disable_mkldnn()  # it is on by default
        try:
            self._predictor = inference.create_predictor(config)
        except Exception as error:
            raise UserError(f"Paddle Inference cannot load {graph}: {_last_words(error)}")

    @property
    def outputs(self) -> int:
        """How many outputs the graph has."""
        return len(self._predictor.get_output_names())

    def run(self, batch: np.ndarray, output: int = 0) -> np.ndarray:
        handle = self._predictor.get_input_handle(self._predictor.get_input_names()[0])
        handle.reshape(list(batch.shape))
        handle.copy_from_cpu(batch)
        self._predictor.run()
        return self._predictor.get_output_handle(self._predictor.get_output_names()[output]).copy_to_cpu()


class OnnxSession:
    """ONNX Runtime; arguments as `PaddleSession`, `model` a file or its contents."""

    def __init__(self, model: str | bytes, device: str, threads: int) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise UserError("the backend onnxruntime is not installed: pip install onnxruntime (onnxruntime-gpu for GPUs)")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors
        options.enable_mem_pattern = False  # a plan kept for each shape that ever came: images have many
        provider = "CUDAExecutionProvider" if device == "gpu" else "CPUExecutionProvider"
        if provider not in onnxruntime.get_available_providers():
            raise UserError(f"this onnxruntime has no {provider}; for GPUs: pip install onnxruntime-gpu")
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=[provider])
        except Exception as error:
            name = model if isinstance(model, str) else "the model"
            raise UserError(f"ONNX Runtime cannot load {name}: {_last_words(error)}")
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]

    @property
    def outputs(self) -> int:
        return len(self._outputs)

    def run(self, batch: np.ndarray, output: int = 0) -> np.ndarray:
        return self._session.run([self._outputs[output]], {self._input: batch})[0]


class OpenVinoSession:
    """OpenVINO, on the CPU; it reads the ONNX file. Arguments as `PaddleSession`."""

    def __init__(self, model: str, device: str, threads: int, bfloat16: bool = False) -> None:
        try:
            import openvino
        except ImportError:
            raise UserError("the backend openvino is not installed: pip install openvino")
        if device != "cpu":
            raise UserError("the backend openvino runs on the CPU here; choose onnxruntime or paddle for a GPU")
        hint = "bf16" if bfloat16 else "f32"  # by itself it takes bfloat16 where the processor has it
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": hint}
        try:
            self._model = openvino.Core().compile_model(model, "CPU", settings)
        except Exception as error:
            raise UserError(f"OpenVINO cannot load {model}: {_last_words(error)}")

    @property
    def outputs(self) -> int:
        return len(self._model.outputs)

    def run(self, batch: np.ndarray, output: int = 0) -> np.ndarray:
        return np.array(self._model(batch)[output])


Session = Union[PaddleSession, OnnxSession, OpenVinoSession]


def _last_words(error):
    return " ".join(str(error).split())[-300:]
