// Registers the fused attention with Paddle. Sizes come from the tensors, so that an exported model accepts any of them.
#include "plain_layout.h"
#include "psa_attention.h"

namespace {

using paddle::DataType;
using paddle::Tensor;
using Shape = std::vector<int64_t>;

PsaElement ElementOf(const Tensor& x) {
  if (x.dtype() == DataType::FLOAT32) return PSA_FLOAT32;
  if (x.dtype() == DataType::FLOAT64) return PSA_FLOAT64;
  if (x.dtype() == DataType::FLOAT16) return PSA_FLOAT16;
  PD_CHECK(x.dtype() == DataType::BFLOAT16, "psa_attention expects float16, bfloat16, float32 or float64");
  return PSA_BFLOAT16;
}

// What an exported model is fed with, no Python code has checked.
PsaAttentionGeometry GeometryOf(const Tensor& value, const Tensor& mask, const std::string& psa_type, int mask_height,
                                int mask_width, bool softmax) {
  const Shape v = value.shape(), m = mask.shape();
  PD_CHECK(v.size() == 4 && m.size() == 4 && v[0] == m[0] && v[2] == m[2] && v[3] == m[3] && value.dtype() == mask.dtype(),
           "psa_attention expects value and mask [N, *, H, W] of the same N, H, W and type");
  PD_CHECK(m[1] == (mask_height > 0 ? int64_t(mask_height) * mask_width : v[2] * v[3]),
           "psa_attention expects a mask of mask_height * mask_width channels, in compact mode of H * W");
  return {v[0], v[1], v[2], v[3], mask_height, mask_width, psa_type == "distribute", softmax};
}

std::vector<Tensor> Forward(const Tensor& value_in, const Tensor& mask_in, const std::string& psa_type, int mask_height,
                            int mask_width, bool softmax) {
  const Tensor value = PlainLayout(value_in), mask = PlainLayout(mask_in);
  const auto g = GeometryOf(value, mask, psa_type, mask_height, mask_width, softmax);
  const PsaElement element = ElementOf(value);
  Tensor out = paddle::empty(value.shape(), value.dtype(), value.place());
  const DataType sum_type = element == PSA_FLOAT64 ? DataType::FLOAT64 : DataType::FLOAT32;
  Tensor statistics = paddle::empty({g.batch, 2, g.height, g.width}, sum_type, value.place());
  if (value.is_cpu()) {
    psa_attention_forward_cpu(value.data(), mask.data(), out.data(), statistics.data(), element, g);
    return {out, statistics};
  }
#ifdef PADDLE_WITH_CUDA
  Tensor workspace = paddle::empty({psa_attention_workspace_cuda(element, g)}, DataType::UINT8, value.place());
  const int error = psa_attention_forward_cuda(value.data(), mask.data(), out.data(), statistics.data(), workspace.data(),
                                               element, g, value.stream());
  PD_CHECK(error == 0, "psa_attention failed on the GPU with CUDA error ", error);
#else
  PD_CHECK(false, "psa_attention was built for the CPU only: install nvcc and build it again");
#endif
  return {out, statistics};
}

std::vector<Tensor> Backward(const Tensor& value_in, const Tensor& mask_in, const Tensor& out_in, const Tensor& statistics,
                             const Tensor& grad_out_in, const std::string& psa_type, int mask_height, int mask_width,
                             bool softmax) {
  const Tensor value = PlainLayout(value_in), mask = PlainLayout(mask_in), out = PlainLayout(out_in);
  const Tensor grad_out = PlainLayout(grad_out_in);
  const auto g = GeometryOf(value, mask, psa_type, mask_height, mask_width, softmax);
  const PsaElement element = ElementOf(value);
  Tensor grad_value = paddle::empty(value.shape(), value.dtype(), value.place());
  Tensor grad_mask = paddle::empty(mask.shape(), mask.dtype(), mask.place());
  if (value.is_cpu()) {
    psa_attention_backward_cpu(value.data(), mask.data(), out.data(), statistics.data(), grad_out.data(), grad_value.data(),
                               grad_mask.data(), element, g);
    return {grad_value, grad_mask};
  }
#ifdef PADDLE_WITH_CUDA
  Tensor workspace = paddle::empty({psa_attention_workspace_cuda(element, g)}, DataType::UINT8, value.place());
  const int error =
      psa_attention_backward_cuda(value.data(), mask.data(), out.data(), statistics.data(), grad_out.data(), grad_value.data(),
                                  grad_mask.data(), workspace.data(), element, g, value.stream());
  PD_CHECK(error == 0, "psa_attention failed on the GPU with CUDA error ", error);
#else
  PD_CHECK(false, "psa_attention was built for the CPU only: install nvcc and build it again");
#endif
  return {grad_value, grad_mask};
}

std::vector<Shape> ForwardShapes(const Shape& value, const Shape& mask, const std::string&, int, int, bool) {
  return {value, {value[0], 2, value[2], value[3]}};
}

std::vector<DataType> ForwardTypes(const DataType& value, const DataType& mask) {
  return {value, value == DataType::FLOAT64 ? DataType::FLOAT64 : DataType::FLOAT32};
}

std::vector<Shape> BackwardShapes(const Shape& value, const Shape& mask, const Shape&, const Shape&, const Shape&,
                                  const std::string&, int, int, bool) {
  return {value, mask};
}

std::vector<DataType> BackwardTypes(const DataType& value, const DataType& mask, const DataType&, const DataType&,
                                    const DataType&) {
  return {value, mask};
}

}  // namespace

PD_BUILD_OP(paddleseg_psa_attention)
    .Inputs({"Value", "Mask"})
    .Outputs({"Out", "Statistics"})
    .Attrs({"psa_type: std::string", "mask_height: int", "mask_width: int", "softmax: bool"})
    .SetKernelFn(PD_KERNEL(Forward))
    .SetInferShapeFn(PD_INFER_SHAPE(ForwardShapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(ForwardTypes));

PD_BUILD_GRAD_OP(paddleseg_psa_attention)
    .Inputs({"Value", "Mask", "Out", "Statistics", paddle::Grad("Out")})
    .Outputs({paddle::Grad("Value"), paddle::Grad("Mask")})
    .Attrs({"psa_type: std::string", "mask_height: int", "mask_width: int", "softmax: bool"})
    .SetKernelFn(PD_KERNEL(Backward))
    .SetInferShapeFn(PD_INFER_SHAPE(BackwardShapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(BackwardTypes));
