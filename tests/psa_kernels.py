"""The kernels' C interface in ctypes, and what they must compute in float64 NumPy. Neither Paddle nor the package is needed."""

import ctypes
import os

import numpy as np

SOURCES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "paddleseg_psp", "ops", "psamask", "csrc")
TYPES = ["collect", "distribute"]
COMPACT = None  # for a mask size
ELEMENTS = ["float32", "float64", "float16", "bfloat16"]  # in the order of PsaElement


class PsaMaskGeometry(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("batch", "height", "width", "mask_height", "mask_width")]
    _fields_ += [("distribute", ctypes.c_bool)]


class PsaAttentionGeometry(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("batch", "channels", "height", "width", "mask_height", "mask_width")]
    _fields_ += [("distribute", ctypes.c_bool), ("softmax", ctypes.c_bool)]


def attention_geometry(shape, psa_type, softmax):
    """Returns the geometry of a shape (N, C, H, W, mask size or COMPACT)."""
    return PsaAttentionGeometry(*shape[:4], *(shape[4] or (0, 0)), psa_type == "distribute", softmax)


def mask_channels(shape):
    return shape[2] * shape[3] if shape[4] is COMPACT else shape[4][0] * shape[4][1]


def inputs(shape, dtype="float32", scale=1):
    """Returns random value, mask and grad_out."""
    n, channels, height, width, _ = shape
    value, grad_out = np.random.standard_normal((2, n, channels, height, width)).astype(dtype)
    mask = np.random.standard_normal((n, mask_channels(shape), height, width)) * scale
    return value, mask.astype(dtype), grad_out


def logit_places(shape, psa_type):
    """Returns index arrays (channel of the mask, position in it, s, q) of all its logits; s and q are psa_attention.h's."""
    height, width, mask_size = shape[2:]
    s, q = np.indices((height * width, height * width))
    owner, other = (q, s) if psa_type == "collect" else (s, q)
    if mask_size is COMPACT:
        return tuple(index.ravel() for index in (other, owner, s, q))
    i = other // width - owner // width + mask_size[0] // 2
    j = other % width - owner % width + mask_size[1] // 2
    reached = (0 <= i) & (i < mask_size[0]) & (0 <= j) & (j < mask_size[1])
    return tuple(index[reached] for index in (i * mask_size[1] + j, owner, s, q))


def psa_mask(x, shape, psa_type):
    """Returns psa_mask(x) as [N, H * W, H * W], in the type of x."""
    channel, position, s, q = logit_places(shape, psa_type)
    out = np.zeros((len(x), shape[2] * shape[3], shape[2] * shape[3]), x.dtype)
    out[:, s, q] = x.reshape(len(x), x.shape[1], -1)[:, channel, position]
    return out


def psa_mask_gradient(grad_out, shape, psa_type):
    channel, position, s, q = logit_places(shape, psa_type)
    grad_x = np.zeros((len(grad_out), mask_channels(shape), shape[2] * shape[3]), grad_out.dtype)
    grad_x[:, channel, position] = grad_out.reshape(len(grad_out), shape[2] * shape[3], -1)[:, s, q]
    return grad_x


def psa_attention(value, mask, grad_out, shape, psa_type, softmax):
    """Returns out and the gradients of value and mask by their formulas, [N, *, H * W], from the whole matrix of weights."""
    value, mask, grad_out = (array.astype("float64").reshape(*array.shape[:2], -1) for array in (value, mask, grad_out))
    weights = psa_mask(mask, shape, psa_type)
    if softmax:
        weights = np.exp(weights - weights.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
    grad_weights = value.transpose(0, 2, 1) @ grad_out
    if softmax:
        grad_weights = weights * (grad_weights - (weights * grad_weights).sum(1, keepdims=True))
    grad_mask = psa_mask_gradient(grad_weights, shape, psa_type)
    return value @ weights, grad_out @ weights.transpose(0, 2, 1), grad_mask


def poisoned(shape, dtype):
    """Returns an array of NaN."""
    return np.frombuffer(b"\xff" * (int(np.prod(shape)) * np.dtype(dtype).itemsize), dtype).reshape(shape).copy()


def to_bfloat16(array):
    """Rounds float32 to bfloat16, as uint16, which NumPy has instead."""
    bits = array.astype("float32").view("uint32")
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("uint16")


def from_bfloat16(array):
    return (array.astype("uint32") << 16).view("float32")


class Host:
    """Memory for kernels that run on the CPU. Classes for other devices have the same methods."""

    @staticmethod
    def put(array):
        return array.copy()

    @staticmethod
    def pointer(memory):
        return ctypes.c_void_p(memory.ctypes.data)

    @staticmethod
    def get(memory):
        return memory


def load(path):
    """Loads a library of the CUDA kernels."""
    kernels = ctypes.CDLL(str(path))
    kernels.psa_attention_workspace_cuda.restype = ctypes.c_int64
    return kernels


def run_psa_mask(kernels, x, grad_out, shape, psa_type, device=Host):
    """Returns psa_mask and its gradient by the CUDA kernels, written over NaN."""
    geometry = PsaMaskGeometry(shape[0], *shape[2:4], *shape[4], psa_type == "distribute")
    results = []
    for kernel, source, like in ((kernels.psamask_forward_cuda, x, grad_out), (kernels.psamask_backward_cuda, grad_out, x)):
        source, target = device.put(source), device.put(poisoned(like.shape, x.dtype))
        assert kernel(device.pointer(source), device.pointer(target), x.itemsize, geometry, None) == 0
        results.append(device.get(target))
    return results


def run_psa_attention(kernels, arrays, shape, psa_type, softmax, element, device=Host):
    """Returns psa_attention and its gradients by the CUDA kernels, written over NaN. `arrays` are value, mask and grad_out."""
    geometry, kind = attention_geometry(shape, psa_type, softmax), ELEMENTS.index(element)
    value, mask, grad_out = map(device.put, arrays)
    out, grad_value, grad_mask = (device.put(poisoned(arrays[k].shape, arrays[k].dtype)) for k in (0, 0, 1))
    statistics = device.put(poisoned((shape[0], 2, *shape[2:4]), "float64" if element == "float64" else "float32"))
    size = kernels.psa_attention_workspace_cuda(kind, geometry)

    def call(function, *memories):
        workspace = device.put(poisoned(size, "uint8"))
        assert function(*map(device.pointer, memories), device.pointer(workspace), kind, geometry, None) == 0

    call(kernels.psa_attention_forward_cuda, value, mask, out, statistics)
    call(kernels.psa_attention_backward_cuda, value, mask, out, statistics, grad_out, grad_value, grad_mask)
    return [device.get(memory) for memory in (out, grad_value, grad_mask)]


def check_psa_attention(kernels, shape, psa_type, softmax, element, tolerance, device=Host, scale=1):
    """Raises AssertionError unless the CUDA kernels agree with float64 to a relative tolerance."""
    arrays = inputs(shape, "float32" if element == "bfloat16" else element, scale)
    if element == "bfloat16":
        arrays = [to_bfloat16(array) for array in arrays]
    results = run_psa_attention(kernels, arrays, shape, psa_type, softmax, element, device)
    if element == "bfloat16":
        arrays, results = ([from_bfloat16(array) for array in group] for group in (arrays, results))
    expected = psa_attention(*arrays, shape, psa_type, softmax)
    for name, result, wanted in zip(("out", "grad_value", "grad_mask"), results, expected):
        error = np.linalg.norm(result.ravel() - wanted.ravel()) / max(np.linalg.norm(wanted), 1e-30)
        assert error < tolerance, f"{name} of {shape}, {psa_type}, softmax {softmax}, {element}: relative error {error}"
