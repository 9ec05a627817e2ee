from paddleseg_psp.visual.masks import color_map, colorize, overlay, save_index_png

__all__ = ["color_map", "colorize", "overlay", "save_index_png"]
