"""YAML as it was written: `NO`, `007` and `null` stay the names they are; repeated keys are seen, and lines known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError, missing_of
from ..provenance import refuse_pipe


def compose(text: str) -> yaml.Node | None:
    """The document of a text as nodes; None where it is empty.

    Raises
    ------
    ValueError
        It is no YAML, in words that follow the name of a file.
    """
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"cannot be read as YAML ({' '.join(str(error).split())})") from error
    except RecursionError as error:
        raise ValueError("cannot be read as YAML (it is nested too deeply)") from error


def line_of(node: yaml.Node) -> int:
    """The line of a node, from 1."""
    return int(node.start_mark.line) + 1


@dataclass(frozen=True)
class YamlFile:
    """A YAML file of a user, and how its faults are told.

    Parameters
    ----------
    path
        The file.
    error, hint
        What is raised where something is wrong; where the file is absent, the error of the same family for that.
    what
        The file in words.
    """

    path: Path
    error: type[InputError]
    hint: str
    what: str = "file"

    def root(self) -> yaml.Node | None:
        """The document; None where the file is empty.

        Raises
        ------
        InputError
            An ``error``: the file is absent, or no YAML.
        """
        refuse_pipe(self.path, self.error)
        try:
            return compose(self.path.read_text(encoding="utf-8-sig"))
        except FileNotFoundError as reason:
            absent = missing_of(self.error)
            raise absent(f"there is no such {self.what}", where=self.path, hint="Check the path") from reason
        except UnicodeDecodeError as reason:
            raise self._refused(f"cannot be read as YAML ({reason})") from reason
        except (OSError, ValueError) as reason:
            text = str(reason) if isinstance(reason, ValueError) else f"cannot be read ({reason})"
            raise self._refused(text) from reason

    def mapping(self, node: yaml.Node | None, wanted: str, of: str) -> dict[str, yaml.Node]:
        """Name -> value of a mapping; ``wanted`` and ``of`` are the mapping and its names in words."""
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise self.misplaced(node, wanted)
        values: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = self.name(key, of)
            if name in values:
                raise self._twice(key, name)
            values[name] = value
        return values

    def names(self, node: yaml.Node | None, wanted: str, of: str) -> list[str]:
        """Names of a list; ``wanted`` and ``of`` are the list and its names in words."""
        if node is None:
            return []
        if not isinstance(node, yaml.SequenceNode):
            raise self.misplaced(node, wanted)
        return [self.name(item, of) for item in node.value]

    def name(self, node: yaml.Node, wanted: str) -> str:
        """A name, as it was written."""
        if not isinstance(node, yaml.ScalarNode) or not node.value.strip():
            raise self.misplaced(node, wanted)
        return str(node.value).strip()

    def flag(self, name: str, node: yaml.Node | None) -> bool:
        """``true`` or ``false``; false where there is none."""
        if node is None:
            return False
        if not isinstance(node, yaml.ScalarNode) or node.value.lower() not in ("true", "false"):
            raise self.misplaced(node, f"{name}: true or {name}: false")
        return bool(node.value.lower() == "true")

    def values(self) -> Any:
        """The document as plain Python values: numbers, texts, lists and mappings of these."""
        root = self.root()
        for node in _nodes(root):
            if isinstance(node, yaml.MappingNode):
                names = set()
                for key, _ in node.value:
                    if key.value in names:
                        raise self._twice(key, str(key.value))
                    if isinstance(key, yaml.ScalarNode):
                        names.add(key.value)
        try:
            return None if root is None else yaml.SafeLoader("").construct_document(root)
        except (ValueError, yaml.YAMLError, RecursionError) as reason:
            raise self._refused(f"cannot be read as YAML ({' '.join(str(reason).split())})") from reason

    def misplaced(self, node: yaml.Node, wanted: str) -> InputError:
        """What to raise where a node is not what belongs there."""
        return self.error(f"line {line_of(node)} must hold {wanted}", where=self.path, hint=self.hint)

    def _twice(self, key: yaml.Node, name: str) -> InputError:
        return self.error(f"line {line_of(key)} has '{name}' a second time", where=self.path, hint="Give it once")

    def _refused(self, text: str) -> InputError:
        return self.error(text if self.what == "file" else f"the {self.what} {text}", where=self.path, hint=self.hint)


def _nodes(root: yaml.Node | None) -> Iterator[yaml.Node]:
    """Each node once: an alias stands for the node itself, and may even stand within it."""
    seen: set[int] = set()
    waiting = [] if root is None else [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, yaml.MappingNode):
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
