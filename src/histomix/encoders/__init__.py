"""Encoders: what each sees and gives, and loading them."""

from .card import Encoder, EncoderCard
from .cards import card, cards
from .golden import GoldenCheck, check_golden
from .installation import Installation, doctor
from .load import Availability, availability, load_encoder
from .user import Registered, register_encoder

__all__ = [
    "Availability",
    "Encoder",
    "EncoderCard",
    "GoldenCheck",
    "Installation",
    "Registered",
    "availability",
    "card",
    "cards",
    "check_golden",
    "doctor",
    "load_encoder",
    "register_encoder",
]
