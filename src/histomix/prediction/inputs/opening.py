"""A slide opened at the scale of its job, which its own is not to contradict."""

from __future__ import annotations

from ...errors import SlideError
from ...slides import Slide
from ...slides.open import open_at
from ..job import SlideJob

#: A given scale that differs from the slide's own by more than this share is another one.
MPP_TOLERANCE = 0.02


def opened(job: SlideJob) -> Slide:
    """Open the slide of a job.

    Raises
    ------
    SlideError
        It cannot be opened; or it says another scale than the one that was given for slides without one.
    """
    slide = open_at(job.path, job.mpp, warns=not job.mpp_serves)
    said = slide.mpp_of_file
    if job.mpp is not None and job.mpp_serves and said is not None:
        low, high = sorted((job.mpp, said))
        if high > low * (1 + MPP_TOLERANCE):
            slide.close()
            raise SlideError(
                f"says that it has {said:.4g} um per px, and {job.mpp:.4g} was given for slides that do not say it",
                where=job.path,
                hint="Leave out --mpp for this slide, name its scale in the column mpp of a sheet of slides, or give "
                "--force-mpp where the slide itself is wrong",
            )
    return slide
