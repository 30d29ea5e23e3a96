"""The cards: complete, plain, and found by name."""

from __future__ import annotations

import dataclasses
import json
import typing
from pathlib import Path

import pytest

from histomix.encoders import EncoderCard, card, cards, catalogue
from histomix.errors import EncoderError

from .extras import extra_module

#: What every user of pathology encoders expects to find.
EXPECTED = [
    "uni",
    "uni2-h",
    "conch",
    "conch-v1.5",
    "virchow",
    "virchow2",
    "prov-gigapath",
    "h-optimus-0",
    "h-optimus-1",
    "h0-mini",
    "phikon",
    "phikon-v2",
    "hibou-b",
    "hibou-l",
    "midnight-12k",
    "lunit-s16",
    "lunit-s8",
    "kaiko-s16",
    "kaiko-s8",
    "kaiko-b16",
    "kaiko-b8",
    "kaiko-l14",
    "ctranspath",
    "plip",
    "musk",
    "gpfm",
    "resnet50-imagenet",
    "dinov2-s",
    "dinov2-b",
    "builtin",
]


def test_every_expected_encoder_has_a_card() -> None:
    assert {one.name for one in cards()} == set(EXPECTED)


def test_cards_are_complete_and_plain_data() -> None:
    names = [one.name for one in cards()]
    assert names[0] == "builtin" and len(set(names)) == len(names)
    fields = {field.name for field in dataclasses.fields(EncoderCard)}
    for one in cards():
        json.dumps(dataclasses.asdict(one), allow_nan=False)
        assert set(one.unconfirmed) <= fields
        assert all(0 < value < 1 for value in one.mean + one.std)
        assert one.page if one.source != "builtin" else one.hub_id is None
        assert one.revision is None or (len(one.revision) == 40 and int(one.revision, 16))
        assert (one.hub_id is not None and one.revision is None) == ("revision" in one.unconfirmed)
        assert (one.pooling == "stages" and one.source == "timm") == bool(one.layers)
        assert not (one.commercial_use and "NC" in one.licence)


def test_facts_are_of_the_types_that_the_card_says() -> None:
    kinds = typing.get_type_hints(EncoderCard)
    for one in cards():
        for name, value in dataclasses.asdict(one).items():
            kind = kinds[name]
            if typing.get_origin(kind) is typing.Literal:
                assert value in typing.get_args(kind), f"{one.name}: {name}"
            elif kind is float:
                assert type(value) is float, f"{one.name}: {name}"
            else:
                plain = [typing.get_origin(part) or part for part in typing.get_args(kind) or [kind]]
                plain = [tuple] if typing.get_origin(kind) is tuple else [dict] if name == "arguments" else plain
                assert type(value) in plain, f"{one.name}: {name}"
        assert all(type(value) is float for value in one.mean + one.std) and len(one.mean) == len(one.std) == 3


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("name: uni\n", "name: builtin\n", "has the encoder builtin twice"),
        ("    dim: 2560\n", "    dims: 2560\n", "is no card of an encoder.*dims"),
        ("    parameters: 303.4\n", "", "card 2 is no card of an encoder.*parameters"),
        ("    gated: true\n", "    gated: true\n    gated: false\n", "has 'gated' a second time"),
        ("\ncards:\n", "\ncard:\n", "holds no cards"),
    ],
)
def test_a_damaged_catalogue_is_refused_and_named(old: str, new: str, words: str, tmp_path: Path) -> None:
    text = (Path(catalogue.__file__).parent / "cards.yaml").read_text(encoding="utf-8")
    path = tmp_path / "cards.yaml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(EncoderError, match=words) as caught:
        catalogue.read_catalogue(path)
    assert caught.value.where == str(path)


def test_unknown_name_offers_the_closest() -> None:
    assert card("UNI2_h").name == "uni2-h"
    assert card("Midnight").name == "midnight-12k"
    with pytest.raises(EncoderError, match=r"Did you mean .*virchow2"):
        card("virchow3")
    with pytest.raises(EncoderError, match="Choose one of builtin"):
        card("%%%%")


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("uni", "uni"),
        ("uni2-h", "uni2"),
        ("virchow", "virchow"),
        ("virchow2", "virchow2"),
        ("prov-gigapath", "gigapath"),
        ("h-optimus-0", "h-optimus-0"),
        ("h-optimus-1", "h-optimus-1"),
        ("h0-mini", "h0-mini"),
        ("hibou-b", "hibou-b"),
        ("hibou-l", "hibou-l"),
        ("midnight-12k", "midnight"),
        ("phikon", "phikon"),
        ("phikon-v2", "phikonv2"),
        ("gpfm", "gpfm"),
        ("conch", "conch"),
        ("conch-v1.5", "conch_v1.5"),
        ("plip", "plip"),
        ("musk", "musk"),
        ("lunit-s16", "lunit-dino-s16"),
        ("lunit-s8", "lunit-dino-s8"),
        ("ctranspath", "ctranspath"),
    ],
)
def test_cards_agree_with_the_registry_of_lazyslide(name: str, theirs: str) -> None:
    registry = extra_module("zoo", "lazyslide_models").MODEL_REGISTRY
    one, other = card(name), registry[theirs]
    assert one.dim == other.encode_dim
    if "gated" not in one.unconfirmed:
        assert one.gated == bool(other.is_gated)
    if "commercial_use" not in one.unconfirmed:
        assert one.commercial_use == bool(other.commercial)
    if one.hub_id is not None and other.hf_url and name != "hibou-l":  # it names Hibou-B's page for both
        assert one.page is not None and one.page.lower() == other.hf_url.lower()
