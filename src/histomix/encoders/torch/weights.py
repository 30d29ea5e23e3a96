"""Where weights are, and reading them without running anything that they contain."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.naming import visible
from ...common.quiet import hub_cache
from ...errors import EncoderError, HistomixError, InputError, MissingEncoderError
from ...provenance import read_json, refuse_pipe
from ..card import HUB_FILES, EncoderCard

if TYPE_CHECKING:
    import torch

_TORCH_SUFFIXES = (".bin", ".pth", ".pt")
_SECONDS_TO_ANSWER = 5.0
#: How the index of weights in several files ends.
_INDEX = ".index.json"
#: Under which names a checkpoint of training keeps a network, the one to embed with first.
_NESTS = ("teacher", "model_ema", "state_dict", "model", "student")


def find_weights(card: EncoderCard, weights: str | os.PathLike[str] | None = None) -> Path:
    """Find the weights of a hub encoder: a local file or folder, else the hub's cache, else the hub.

    Parameters
    ----------
    card
        The encoder.
    weights
        A weights file, or a folder that holds one.

    Raises
    ------
    EncoderError
        The path does not exist or holds no weights; or the weights are not in the cache and the hub cannot be
        reached, is switched off by ``HF_HUB_OFFLINE``, or has not granted access.
    """
    if weights is not None:
        refuse_pipe(weights, EncoderError)
        return _in_folder(Path(weights), card.files) if Path(weights).is_dir() else _existing(Path(weights))
    return cached_weights(card) or _from_hub(card)


def cached_weights(card: EncoderCard) -> Path | None:
    """The weights in the hub's local cache, or the model of a card file, or None; never touches the network.

    The hub's cache is that of its own tools (``hf download``), or the one that the command line keeps.
    """
    if card.source == "file":
        return Path(card.files[0])
    if card.hub_id is None or card.source != "timm":
        return None
    from huggingface_hub import try_to_load_from_cache

    for folder in (None, hub_cache()):
        for name in card.files:
            file = try_to_load_from_cache(card.hub_id, name, cache_dir=folder, revision=card.revision)
            if isinstance(file, str):
                return Path(file)
    return None


def absence(card: EncoderCard) -> str:
    """That weights are not here, in words; and what is here of them, where the cache has another commit."""
    here = _other_commits(card)
    if not here or card.revision is None:
        return "its weights are not on this machine"
    return (
        f"its weights are not on this machine: the hub's cache holds the commit {here[0][:12]}, and the card is of "
        f"{card.revision[:12]}, whose embeddings may differ"
    )


def _other_commits(card: EncoderCard) -> list[str]:
    """Commits of a hub encoder whose weights are in the local cache."""
    if card.hub_id is None:
        return []
    from huggingface_hub import constants

    commits = []
    for folder in (constants.HF_HUB_CACHE, hub_cache()):
        snapshots = Path(folder or "", f"models--{card.hub_id.replace('/', '--')}", "snapshots")
        if folder is not None and snapshots.is_dir():
            commits += [
                one.name for one in sorted(snapshots.iterdir()) if any((one / name).exists() for name in card.files)
            ]
    return commits


def download_command(card: EncoderCard) -> str:
    """The command that brings a hub encoder's weights into the local cache."""
    revision = f" --revision {card.revision}" if card.revision else ""
    # A repository that names its weights otherwise also holds other models.
    files = "" if card.files == HUB_FILES else f" {card.files[0]}"
    return f"hf download {card.hub_id}{files}{revision}"


def access_hint(card: EncoderCard, gated: bool | None = None) -> str:
    """What makes a hub encoder loadable on this machine; ``gated`` is what the hub says, where it was asked."""
    local = "or give a downloaded file with --weights"
    if card.hub_id is None:
        names = " or ".join(card.files)
        return f"Download {names} as {card.page} says, and give it with --weights"
    if card.gated if gated is None else gated:
        return f"Accept the licence at {card.page}, run `hf auth login` and `{download_command(card)}`, {local}"
    return f"Run `{download_command(card)}` where there is a network, {local}"


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name, from safetensors or from a torch checkpoint; a checkpoint's code is never run.

    Of a checkpoint of training the teacher is taken, which is what publishers embed with. Weights in several files are
    read by their index (``model.safetensors.index.json``).

    Raises
    ------
    EncoderError
        The file is not weights, is truncated or damaged, or holds more than tensors; or one of several is missing.
    """
    if path.name.endswith(_INDEX):
        return _read_shards(path)
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        with open(path, "rb") as stream:
            start = stream.read(64)
        if start.startswith(b"version https://git-lfs"):
            raise EncoderError(
                "is a Git LFS pointer, not the weights themselves", where=path, hint="Run `git lfs pull` in its folder"
            )
        if _is_safetensors(path, start):
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of protocols; what it cannot read is an error
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except EncoderError:
        raise
    except SafetensorError as error:
        raise _damaged(path, str(error)) from error
    except (RuntimeError, OSError) as error:
        raise _damaged(path, str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    except MemoryError:
        raise
    except Exception as error:
        # What holds objects other than tensors is refused with an error of unpickling; other bytes end the machine
        # that reads them with any error that Python has.
        raise _damaged(path, "it holds objects other than tensors, or is no weights file") from error
    while nest := next(
        (name for name in _NESTS if isinstance(state, dict) and isinstance(state.get(name), dict)), None
    ):
        state = state[nest]
    if not isinstance(state, dict) or not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise EncoderError("holds no table of tensors", where=path, hint="Give the encoder's state dict, as published")
    return state


def weights_files(path: Path) -> list[Path]:
    """The files that weights are in: the one, or all that an index names.

    Raises
    ------
    EncoderError
        The index cannot be read, names files elsewhere, or one is missing.
    """
    return [path] if not path.name.endswith(_INDEX) else sorted({path.parent / name for name in _shards(path).values()})


def _shards(index: Path) -> dict[str, str]:
    """Tensor -> file, as an index says it."""
    try:
        names = read_json(index).get("weight_map")
    except InputError as error:
        raise EncoderError(error.what, where=index, hint="Download the folder again") from error
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise EncoderError("is no index of weights", where=index, hint="Download the folder again")
    for name in sorted({*names.values()}):
        if Path(name).name != name or name.endswith(_INDEX):
            raise EncoderError(f"names weights elsewhere ({visible(name)})", where=index, hint="Do not use this folder")
        if not (index.parent / name).is_file():
            what = f"the file {name} of these weights is missing"
            raise MissingEncoderError(what, where=index.parent, hint="Download the folder again, with all of its files")
    return names


def _read_shards(index: Path) -> dict[str, torch.Tensor]:
    names = _shards(index)
    state: dict[str, torch.Tensor] = {}
    for file in weights_files(index):
        state |= {key: value for key, value in read_weights(file).items() if names.get(key) == file.name}
    if lacking := sorted(set(names) - set(state)):
        raise EncoderError(
            f"{len(lacking)} tensors are in none of its files (such as {lacking[0]})",
            where=index,
            hint="Download the folder again, with all of its files",
        )
    return state


def _is_safetensors(path: Path, start: bytes) -> bool:
    """By suffix, or by content: a header length, then JSON."""
    return path.suffix == ".safetensors" or (
        len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size
    )


def _damaged(path: Path, reason: str) -> EncoderError:
    return EncoderError(
        f"the weights cannot be read: the file is truncated, damaged or of another kind ({reason})",
        where=path,
        hint="Download it again, and compare its size with the one the hub shows",
    )


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise MissingEncoderError(
            "there is no such weights file or folder", where=path, hint="Check the path given with --weights"
        )
    return path


def _in_folder(folder: Path, names: tuple[str, ...]) -> Path:
    files = sorted(file for file in folder.iterdir() if file.is_file())
    for name in dict.fromkeys((*names, *HUB_FILES)):
        if folder / name in files:
            return folder / name
    indices = [file for file in files if file.name.endswith(_INDEX)]
    if indices:
        # That of safetensors before that of another format.
        return next((file for file in indices if ".safetensors" in file.name), indices[0])
    for suffixes in ((".safetensors",), _TORCH_SUFFIXES):
        candidates = [file for file in files if file.suffix in suffixes]
        if len(candidates) > 1:
            listed = ", ".join(file.name for file in candidates)
            raise EncoderError(
                f"the folder holds several weights files ({listed})",
                where=folder,
                hint="Give the one file with --weights",
            )
        if candidates:
            return candidates[0]
    raise EncoderError(
        "the folder holds no weights file",
        where=folder,
        hint=f"It should hold {' or '.join(names)}, or one *.safetensors, *.bin, *.pth or *.pt file",
    )


def ask_hub(card: EncoderCard) -> None:
    """Ask the hub once for a repository, so that what would fail fails now and not after half a minute of retries.

    A repository of which anything is in the local cache is not asked for.

    Raises
    ------
    EncoderError
        The hub cannot be reached, is switched off by ``HF_HUB_OFFLINE``, or has not granted access.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    if card.hub_id is None or (Path(constants.HF_HUB_CACHE) / f"models--{card.hub_id.replace('/', '--')}").is_dir():
        return
    with _hub_errors(card), contextlib.suppress(EntryNotFoundError):
        get_hf_file_metadata(hf_hub_url(card.hub_id, "config.json"), timeout=_SECONDS_TO_ANSWER)


def _from_hub(card: EncoderCard) -> Path:
    """Download the weights, after one short question to the hub: its own download retries for half a minute first."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    if card.hub_id is None:
        what = f"the weights of {card.name} are not on this machine, and no hub has them"
        raise EncoderError(what, where=card.page, hint=access_hint(card))
    with _hub_errors(card):
        for name in card.files:
            try:
                url = hf_hub_url(card.hub_id, name, revision=card.revision)
                get_hf_file_metadata(url, timeout=_SECONDS_TO_ANSWER)
            except EntryNotFoundError:
                continue
            return Path(hf_hub_download(card.hub_id, name, revision=card.revision))
    raise EncoderError(
        f"the hub repository holds none of {', '.join(card.files)}",
        where=card.page,
        hint="Give the weights with --weights",
    )


@contextlib.contextmanager
def _hub_errors(card: EncoderCard) -> Iterator[None]:
    """Say what stands between a card and its weights on the hub."""
    from huggingface_hub import constants

    # HTTPError is that of the HTTP library in use, which has changed twice between versions of huggingface_hub.
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HTTPError

    what = absence(card).replace("its weights", f"the weights of {card.name}", 1)
    facts: dict[str, Any] = {"where": card.page, "hint": access_hint(card)}
    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in constants.ENV_VARS_TRUE_VALUES:
        raise EncoderError(f"{what}, and HF_HUB_OFFLINE forbids asking the hub", **facts)
    try:
        yield
    except HistomixError:
        raise
    except GatedRepoError as error:
        facts["hint"] = access_hint(card, gated=True)
        raise EncoderError(f"{what}, and the hub has not granted access to them", **facts) from error
    except HfHubHTTPError as error:
        raise EncoderError(f"{what}, and the hub refused ({str(error).splitlines()[0]})", **facts) from error
    except (HTTPError, OSError) as error:
        raise EncoderError(f"{what}, and the hub cannot be reached ({error})", **facts) from error
