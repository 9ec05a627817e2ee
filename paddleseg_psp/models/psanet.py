"""PSANet: point-wise spatial attention network."""

from __future__ import annotations

from collections.abc import Sequence

from paddle import Tensor, nn

from paddleseg_psp.models.backbones import output_stride
from paddleseg_psp.models.layers import Classifier, PointWiseSpatialAttention, covering_mask_size
from paddleseg_psp.models.segmentor import Segmentor
from paddleseg_psp.registry import register


@register
class PSANet(Segmentor):
    """PSANet (Zhao et al., ECCV 2018): [N, 3, H, W] -> list of logits [N, num_classes, H, W].

    Parameter names are those of PSANet_paddle's PSANet. The auxiliary logits are there in training only.

    Args:
        num_classes: number of classes.
        backbone: a layer that returns a list of feature maps and lists their channels in `feat_channels`.
        backbone_indices: which feature maps the auxiliary and the main head take.
        enable_auxiliary_loss: train an auxiliary classifier.
        psa_type: "collect", "distribute" or "bi-direction", or PaddleSeg's 0, 1, 2.
        compact: predict the attention over the whole map directly; see `PointWiseSpatialAttention`.
        shrink_factor: shrinks the feature map by this factor before the attention.
        mask_h: height of the mask in positions of the shrunk feature map. None means the smallest mask that covers an image
            of crop_size.
        mask_w: width of the mask; see mask_h.
        crop_size: (height, width) of the training crop; a configuration fills it in from its training transforms.
        normalization_factor: divides the attended feature; None means mask_h * mask_w.
        psa_softmax: apply a softmax to the weights of each position.
        dropout: probability in front of both classifiers.
        use_psa: False leaves the attention out.
        mid_channels: channels inside the attention.
        head_channels: channels in front of the classifier.
        aux_channels: channels in front of the auxiliary classifier.
        align_corners: align corners when logits are resized to the image.
        pretrained: path or URL of weights for the whole network.
        channel_dropout: drop whole channels, like semseg and mmsegmentation.
        convention: "semseg" or "mmsegmentation"; see `PointWiseSpatialAttention`.

    Raises:
        ValueError: neither a mask size nor a crop size, or an option that `PointWiseSpatialAttention` refuses.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: nn.Layer,
        backbone_indices: Sequence[int] = (2, 3),
        enable_auxiliary_loss: bool = True,
        psa_type: str = "bi-direction",
        compact: bool = False,
        shrink_factor: int = 2,
        mask_h: int | None = None,
        mask_w: int | None = None,
        crop_size: Sequence[int] | None = None,
        normalization_factor: float | None = 1.0,
        psa_softmax: bool = True,
        dropout: float = 0.1,
        use_psa: bool = True,
        mid_channels: int = 512,
        head_channels: int = 512,
        aux_channels: int = 256,
        align_corners: bool = False,
        pretrained: str | None = None,
        channel_dropout: bool = False,
        convention: str = "semseg",
    ) -> None:
        super().__init__(backbone, backbone_indices, align_corners)
        auxiliary_channels, main_channels = self.feature_channels
        self.psa = None
        if use_psa:
            if mask_h is None or mask_w is None:
                if crop_size is None:
                    raise ValueError("give mask_h and mask_w, or the crop_size (height, width) that the mask has to cover")
                stride = output_stride(backbone, self.backbone_indices[-1])
                covering = covering_mask_size(crop_size, shrink_factor, stride, compact)
                mask_h, mask_w = mask_h or covering[0], mask_w or covering[1]
            self.psa = PointWiseSpatialAttention(
                main_channels,
                mid_channels,
                psa_type,
                compact,
                shrink_factor,
                mask_h,
                mask_w,
                normalization_factor,
                psa_softmax,
                convention,
                align_corners,
            )
            main_channels *= 2
        options = (dropout, channel_dropout, False)
        self.head = Classifier(main_channels, head_channels, num_classes, *options)
        self.aux_head = None
        if enable_auxiliary_loss:
            self.aux_head = Classifier(auxiliary_channels, aux_channels, num_classes, *options)
        self.load_pretrained(pretrained)

    def logits(self, auxiliary: Tensor, main: Tensor) -> list[Tensor]:
        logits = [self.head(main if self.psa is None else self.psa(main))]
        if self.training and self.aux_head is not None:
            logits.append(self.aux_head(auxiliary))
        return logits
