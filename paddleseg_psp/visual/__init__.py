from paddleseg_psp.visual.comparison import draw_comparison, draw_panels
from paddleseg_psp.visual.confusion import draw_confusion_matrix
from paddleseg_psp.visual.curves import draw_curves
from paddleseg_psp.visual.heat import heat
from paddleseg_psp.visual.legend import draw_legend
from paddleseg_psp.visual.masks import color_map, colorize, overlay, save_classes, save_index_png, viewable
from paddleseg_psp.visual.throughput import draw_throughput
from paddleseg_psp.visual.writing import write_image

__all__ = [
    "color_map",
    "colorize",
    "draw_comparison",
    "draw_confusion_matrix",
    "draw_curves",
    "draw_legend",
    "draw_panels",
    "draw_throughput",
    "heat",
    "overlay",
    "save_classes",
    "save_index_png",
    "viewable",
    "write_image",
]
