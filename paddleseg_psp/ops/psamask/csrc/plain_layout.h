// What both operators' bindings to Paddle need.
#pragma once

#include "paddle/phi/api/all.h"

// Under oneDNN, Paddle hands a custom operator the convolution's blocked memory as it is; copying converts it.
inline paddle::Tensor PlainLayout(const paddle::Tensor& x) {
  if (x.layout() != phi::DataLayout::ONEDNN) return x;
  const paddle::Tensor plain = paddle::experimental::assign(x);
  PD_CHECK(plain.layout() != phi::DataLayout::ONEDNN, "an operator of PSANet cannot read oneDNN's own memory layout");
  return plain;
}
