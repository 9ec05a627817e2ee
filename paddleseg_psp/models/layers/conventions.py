"""How two implementations of PSANet's attention differ: the authors', semseg, and mmsegmentation's."""

from __future__ import annotations

from collections.abc import Sequence


class Semseg:
    """The authors': shrinks a map so that its corners stay where they are."""

    depends_on_size = False  # so that a graph for inputs of any size would be wrong
    takes_even_masks = False
    projection_padding = 0

    def shrunk_size(self, size: Sequence, factor: int, align_corners: bool) -> tuple[Sequence, bool]:
        """Returns the size at which attention runs, and whether resizing to it and back aligns corners.

        Args:
            size: (height, width) of the feature map: ints, or scalar tensors of a static graph.
            factor: to shrink by.
            align_corners: the network's option.
        """
        return [(side - 1) // factor + 1 for side in size], True

    def resizes_back(self, factor: int) -> bool:
        """Returns whether the projected feature has another size than the input."""
        return factor != 1

    def compact_direction(self, direction: str, alone: bool) -> str:
        """Returns how a compact mask is read: "collect" as it is, "distribute" transposed; `alone` without the other branch."""
        return direction


class MMSegmentation(Semseg):
    """mmsegmentation's.

    It shrinks as semseg only where both sides are no multiples of the factor, else to h // factor without aligned corners; it
    pads the projection by 1, and a single compact branch transposes collect where semseg transposes distribute.
    """

    depends_on_size = True
    takes_even_masks = True
    projection_padding = 1

    def shrunk_size(self, size: Sequence, factor: int, align_corners: bool) -> tuple[Sequence, bool]:
        if not all(isinstance(side, int) for side in size):
            raise ValueError("the mmsegmentation convention depends on the input size: export with a fixed --input_shape")
        if factor == 1:
            return size, align_corners
        if all(side % factor for side in size):
            return super().shrunk_size(size, factor, align_corners)
        return [side // factor for side in size], False

    def resizes_back(self, factor: int) -> bool:
        return True

    def compact_direction(self, direction: str, alone: bool) -> str:
        if not alone:
            return direction
        return "distribute" if direction == "collect" else "collect"


CONVENTIONS = {"semseg": Semseg(), "mmsegmentation": MMSegmentation()}
