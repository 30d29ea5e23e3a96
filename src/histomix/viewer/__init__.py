"""The viewer: a static folder in which slides, maps and labels are looked at."""

from .sources import viewer_slides
from .viewer import Viewer, write_viewer
from .writer import VIEW_MPP, ViewerSlide

__all__ = ["VIEW_MPP", "Viewer", "ViewerSlide", "viewer_slides", "write_viewer"]
