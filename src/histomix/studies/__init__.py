"""Published studies made anew, and the planning of one's own: what one more donor or section brings."""

from .plan import Plan, plan
from .reproduce import Reproduction, reproduce
from .study import Study, list_studies, read_study

__all__ = ["Plan", "Reproduction", "Study", "list_studies", "plan", "read_study", "reproduce"]
