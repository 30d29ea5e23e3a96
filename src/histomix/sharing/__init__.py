"""Sharing heads: to and from the Hugging Face hub, folders and zip archives; a catalogue of ready ones."""

from .catalogue import ListedHead, list_heads, listing
from .licences import sharing_fault, with_licences
from .share import head_facts, head_folder, pull_head, push_head, push_place
from .trust import HeadFacts

__all__ = [
    "HeadFacts",
    "ListedHead",
    "head_facts",
    "head_folder",
    "list_heads",
    "listing",
    "pull_head",
    "push_head",
    "push_place",
    "sharing_fault",
    "with_licences",
]
