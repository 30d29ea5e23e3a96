"""The viewer: a static folder in which slides, maps and labels are looked at."""

from .sources import viewer_slides
from .writer import VIEW_MPP, ViewerSlide, write_viewer

__all__ = ["VIEW_MPP", "ViewerSlide", "viewer_slides", "write_viewer"]
