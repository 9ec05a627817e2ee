"""What the two networks share: a backbone, logits at feature size, and resizing to the image."""

from paddle import nn

from paddleseg_psp.models.layers import resize, spatial_size
from paddleseg_psp.models.weights import load_weights


class Segmentor(nn.Layer):
    """A backbone and heads; subclasses give `logits(auxiliary, main)` for two feature maps: a list with the main
    logits and, in training, the auxiliary ones.

    Args:
        backbone (Layer): returns a list of feature maps and names their channels in `feat_channels`.
        backbone_indices (sequence of int): the auxiliary head's and the main head's feature map.
        align_corners (bool): how logits are resized to the image.
    """

    def __init__(self, backbone, backbone_indices, align_corners):
        super().__init__()
        self.backbone = backbone
        self.backbone_indices = tuple(backbone_indices)
        self.align_corners = align_corners

    def load_pretrained(self, pretrained):
        if pretrained is not None:
            load_weights(self, pretrained)

    @property
    def feature_channels(self):
        """Channels of the auxiliary and of the main feature map."""
        return [self.backbone.feat_channels[index] for index in self.backbone_indices]

    def forward(self, x):
        """x [N, 3, H, W] -> list of logits [N, num_classes, H, W]: one, or with an auxiliary head two while training."""
        features = self.backbone(x)
        auxiliary, main = (features[index] for index in self.backbone_indices)
        size = spatial_size(x)
        return [resize(logits, size, self.align_corners) for logits in self.logits(auxiliary, main)]
