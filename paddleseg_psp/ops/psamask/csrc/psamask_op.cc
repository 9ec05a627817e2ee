// Registers the kernels with Paddle. Sizes come from the tensors, so that an exported model accepts any of them.
#include "plain_layout.h"
#include "psamask.h"

namespace {

using paddle::Tensor;
using Shapes = std::vector<std::vector<int64_t>>;
using CpuKernel = decltype(&psamask_forward_cpu);
using CudaKernel = decltype(&psamask_forward_cuda);

#ifdef PADDLE_WITH_CUDA
const CudaKernel forward_cuda = psamask_forward_cuda, backward_cuda = psamask_backward_cuda;
#else
const CudaKernel forward_cuda = nullptr, backward_cuda = nullptr;
#endif

Tensor Run(const Tensor& any_layout, const std::vector<int64_t>& shape, const PsaMaskGeometry& geometry, CpuKernel cpu_kernel,
           CudaKernel cuda_kernel) {
  const Tensor input = PlainLayout(any_layout);
  Tensor output = paddle::empty(shape, input.dtype(), input.place());
  const int element_size = phi::SizeOf(input.dtype());
  if (input.is_cpu()) {
    cpu_kernel(input.data(), output.data(), element_size, geometry);
    return output;
  }
  PD_CHECK(cuda_kernel, "psa_mask was built for the CPU only: install nvcc and build it again");
#ifdef PADDLE_WITH_CUDA
  const int error = cuda_kernel(input.data(), output.data(), element_size, geometry, input.stream());
  PD_CHECK(error == 0, "psa_mask failed on the GPU with CUDA error ", error);
#endif
  return output;
}

std::vector<Tensor> Forward(const Tensor& x, const std::string& psa_type, int mask_height, int mask_width) {
  const auto shape = x.shape();  // also what an exported model is fed with, which no Python code has checked
  PD_CHECK(shape.size() == 4 && shape[1] == int64_t(mask_height) * mask_width,
           "psa_mask expects [N, mask_height * mask_width, H, W]");
  const int64_t n = shape[0], h = shape[2], w = shape[3];
  const PsaMaskGeometry geometry{n, h, w, mask_height, mask_width, psa_type == "distribute"};
  return {Run(x, {n, h * w, h, w}, geometry, psamask_forward_cpu, forward_cuda)};
}

std::vector<Tensor> Backward(const Tensor& grad_out, const std::string& psa_type, int mask_height, int mask_width) {
  const auto shape = grad_out.shape();
  const int64_t n = shape[0], h = shape[2], w = shape[3];
  const PsaMaskGeometry geometry{n, h, w, mask_height, mask_width, psa_type == "distribute"};
  return {Run(grad_out, {n, int64_t(mask_height) * mask_width, h, w}, geometry, psamask_backward_cpu, backward_cuda)};
}

Shapes ForwardShape(const std::vector<int64_t>& x, const std::string&, int, int) {
  const bool known = x[2] >= 0 && x[3] >= 0;
  return {{x[0], known ? x[2] * x[3] : -1, x[2], x[3]}};
}

Shapes BackwardShape(const std::vector<int64_t>& out, const std::string&, int mask_height, int mask_width) {
  return {{out[0], int64_t(mask_height) * mask_width, out[2], out[3]}};
}

std::vector<paddle::DataType> SameType(const paddle::DataType& type) { return {type}; }

}  // namespace

PD_BUILD_OP(paddleseg_psa_mask)
    .Inputs({"X"})
    .Outputs({"Out"})
    .Attrs({"psa_type: std::string", "mask_height: int", "mask_width: int"})
    .SetKernelFn(PD_KERNEL(Forward))
    .SetInferShapeFn(PD_INFER_SHAPE(ForwardShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(SameType));

PD_BUILD_GRAD_OP(paddleseg_psa_mask)
    .Inputs({paddle::Grad("Out")})
    .Outputs({paddle::Grad("X")})
    .Attrs({"psa_type: std::string", "mask_height: int", "mask_width: int"})
    .SetKernelFn(PD_KERNEL(Backward))
    .SetInferShapeFn(PD_INFER_SHAPE(BackwardShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(SameType));
