"""Sharing heads: to and from the Hugging Face hub, folders and zip archives."""

from .share import head_facts, pull_head, push_head, push_place
from .trust import HeadFacts

__all__ = ["HeadFacts", "head_facts", "pull_head", "push_head", "push_place"]
