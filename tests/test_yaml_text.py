"""YAML of users: one reader, which sees lines and repeated keys and keeps names as they were written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from histomix.abundance.vocabulary import read_vocabulary
from histomix.common.yaml_text import YamlFile
from histomix.encoders.card_file import read_card_file
from histomix.errors import EncoderError, InputError, LabelError, MissingFileError
from histomix.evaluation.groups import read_groups

READERS: list[tuple[Callable[[Path], object], type[InputError]]] = [
    (read_vocabulary, LabelError),
    (read_card_file, EncoderError),
    (read_groups, InputError),
]


@pytest.mark.parametrize(("reader", "kind"), READERS)
def test_all_readers_say_what_is_wrong_and_where(
    reader: Callable[[Path], object], kind: type[InputError], tmp_path: Path
) -> None:
    path = tmp_path / "a.yaml"
    with pytest.raises(kind, match="there is no such") as caught:
        reader(path)
    assert isinstance(caught.value, MissingFileError)
    for content, words in (
        (b"a: [b", "cannot be read as YAML"),
        (b"\xff\xfe\x00a", "cannot be read as YAML"),
        (b"a: [b]\na: [c]\n", "line 2 has 'a' a second time"),
        (b"\xef\xbb\xbfa: !!python/object:os.system {}", "yaml"),
    ):
        path.write_bytes(content)
        with pytest.raises(kind, match=words) as caught:
            reader(path)
        assert type(caught.value) is kind and caught.value.where == str(path) and caught.value.hint


def test_names_of_groups_stay_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "groups.yaml"
    path.write_text("NO: [007, null]\n1: [T cells]\n")
    assert read_groups(path) == {"007": "NO", "null": "NO", "T cells": "1"}
    path.write_text("a:\n  - b\n  - [c]\n")
    with pytest.raises(InputError, match="line 3 must hold the name of a cell type"):
        read_groups(path)


def test_a_node_within_itself_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: &again {b: *again}\n")
    values = YamlFile(path, InputError, "").values()
    assert values["a"]["b"] is values["a"]
