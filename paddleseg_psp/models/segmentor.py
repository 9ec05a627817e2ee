"""The base class of both networks: a backbone, logits at feature size, and resizing to the image."""

from __future__ import annotations

from collections.abc import Sequence

from paddle import Tensor, nn

from paddleseg_psp.models.layers import resize, spatial_size
from paddleseg_psp.models.weights import load_weights


class Segmentor(nn.Layer):
    """A backbone and heads; subclasses give `logits(auxiliary, main)` for two feature maps: a list with the main
    logits and, in training, the auxiliary ones.

    Args:
        backbone: returns a list of feature maps and names their channels in `feat_channels`.
        backbone_indices: the auxiliary head's and the main head's feature map.
        align_corners: how logits are resized to the image.
    """

    def __init__(self, backbone: nn.Layer, backbone_indices: Sequence[int], align_corners: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.backbone_indices = tuple(backbone_indices)
        self.align_corners = align_corners

    def load_pretrained(self, pretrained: str | None) -> None:
        if pretrained is not None:
            load_weights(self, pretrained)

    @property
    def feature_channels(self) -> list[int]:
        """Channels of the auxiliary and of the main feature map."""
        return [self.backbone.feat_channels[index] for index in self.backbone_indices]

    def forward(self, x: Tensor) -> list[Tensor]:
        """x [N, 3, H, W] -> list of logits [N, num_classes, H, W]: one, or with an auxiliary head two while training."""
        features = self.backbone(x)
        auxiliary, main = (features[index] for index in self.backbone_indices)
        size = spatial_size(x)
        return [resize(logits, size, self.align_corners) for logits in self.logits(auxiliary, main)]
