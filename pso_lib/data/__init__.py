"""Data sets on the device once: images (``load``) and text (``pso_lib.data.text``)."""

from pso_lib.data.download import data_root
from pso_lib.data.images import Images, for_scale, load
from pso_lib.errors import DataError

__all__ = ["DataError", "Images", "data_root", "for_scale", "load"]
