"""Heads in repositories of the Hugging Face hub, or of a mirror that speaks its language."""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..common.transfer.remote_names import local_path, local_paths
from ..errors import DownloadError, HeadError, HistomixError, InputError
from .trust import MOST_BYTES, SUFFIXES

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ADDRESS = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
#: Files that the hub itself keeps in every repository.
_OF_THE_HUB = (".gitattributes",)


def parse_address(text: str) -> tuple[str, str | None]:
    """Repository and revision of ``hf://OWNER/NAME[@REVISION]``.

    Raises
    ------
    InputError
        It has another form.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise InputError(f"{text!r} names no repository", hint="Write hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
    return match["repo"], match["revision"]


class HubSource:
    """A head in a repository, at one commit: what is shown, fetched and checked is the same.

    Parameters
    ----------
    repo
        ``OWNER/NAME``.
    revision
        Branch, tag or commit; the main branch when left out. It is looked up once and pinned.
    endpoint
        Address of a mirror; the hub's own (or ``HF_ENDPOINT``) when left out.
    """

    def __init__(self, repo: str, revision: str | None = None, endpoint: str | None = None) -> None:
        from huggingface_hub import HfApi

        self.repo, self.where, self.api = repo, f"hf://{repo}", HfApi(endpoint=endpoint)
        with _told(self.where):
            info = self.api.model_info(repo, revision=revision, files_metadata=True)
        self.revision = str(info.sha)
        if not _COMMIT.fullmatch(self.revision):
            raise HeadError(f"the hub names no commit, but {self.revision!r}", where=self.where)
        if revision is not None and _COMMIT.fullmatch(revision) and revision != self.revision:
            raise HeadError(f"the hub answered with commit {self.revision}, not {revision}", where=self.where)
        self._files = {str(one.rfilename): one.size for one in info.siblings or [] if one.rfilename not in _OF_THE_HUB}

    def listing(self) -> dict[str, int]:
        """Files with the sizes that the hub tells.

        Raises
        ------
        HeadError
            The hub tells no size.
        """
        unknown = [name for name, size in self._files.items() if not isinstance(size, int)]
        if unknown:
            raise HeadError(
                f"the hub tells no size of {unknown[0]!r}", where=self.where, hint="Try again, or fetch it as a zip"
            )
        return {name: int(size) for name, size in self._files.items() if size is not None}

    def read(self, name: str) -> bytes:
        """The bytes of one small file."""
        with tempfile.TemporaryDirectory() as folder:
            return self._download(name, Path(folder)).read_bytes()

    def fetch(self, names: Iterable[str], folder: Path, most_bytes: int = MOST_BYTES) -> None:
        """Download files to a folder, at the pinned commit.

        Raises
        ------
        HeadError
            A file has another size than the hub told.
        DownloadError
            The hub cannot be reached.
        """
        targets = local_paths(folder, names, where=self.where)
        with tempfile.TemporaryDirectory(dir=folder.parent) as holder:
            for name, target in targets.items():
                path = self._download(name, Path(holder))
                if path.stat().st_size != self._files[name]:
                    what = f"{name} has {path.stat().st_size} bytes, and the hub told of {self._files[name]}"
                    raise HeadError(what, where=self.where, hint="Try again")
                path.replace(target)

    def _download(self, name: str, folder: Path) -> Path:
        """One file, which is stopped where it is longer than the hub told."""
        # By the hub's own client and not by `common.transfer`: it goes on after breaks, knows tokens, mirrors and where
        # the hub keeps large files, and is there without any extra.
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        path = local_path(folder, name, where=self.where)
        size = self.listing()[name]
        url = hf_hub_url(self.repo, name, revision=self.revision, endpoint=self.api.endpoint)
        with _told(self.where), _Bounded(path, size, self.where) as stream:
            http_get(url, stream, headers=build_hf_headers(), expected_size=size, displayed_filename=name)
        return path


class _Bounded(io.FileIO):
    """A new file that takes as many bytes as were promised, and no more."""

    def __init__(self, path: Path, most: int, where: str) -> None:
        super().__init__(path, "x+")
        self.most, self.where = most, where

    def write(self, data: Any, /) -> int:
        """Write all of it, or refuse."""
        if self.tell() + memoryview(data).nbytes > self.most:
            what = f"{Path(str(self.name)).name} is longer than the {self.most} bytes that the hub told of"
            raise HeadError(what, where=self.where, hint="Try again; if it stays so, do not trust this hub")
        return super().write(data)


def upload(
    files: dict[str, bytes], repo: str, *, public: bool, revision: str | None, message: str, endpoint: str | None = None
) -> str:
    """Commit files to a repository, which is made where it is not there; return the commit.

    Raises
    ------
    DownloadError, InputError
        The hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint)
    with tempfile.TemporaryDirectory() as folder, _told(f"hf://{repo}"):
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        api.create_repo(repo, private=not public, exist_ok=True)
        patterns = [f"*{suffix}" for suffix in SUFFIXES]
        commit: Any = api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message=message, revision=revision, allow_patterns=patterns
        )
    return str(commit.oid)


@contextlib.contextmanager
def _told(where: str) -> Iterator[None]:
    """The hub's faults as errors that say what to do."""
    # HTTPError is that of the HTTP library in use, which has changed twice between versions of huggingface_hub.
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        LocalTokenNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except HistomixError:
        raise
    except GatedRepoError as error:
        hint = "Ask for access on its page, then run: hf auth login"
        raise InputError("the repository is gated", where=where, hint=hint) from error
    except RepositoryNotFoundError as error:
        hint = "Check the name; for a private one run: hf auth login"
        raise InputError("there is no such repository, or you may not see it", where=where, hint=hint) from error
    except RevisionNotFoundError as error:
        raise InputError("there is no such revision", where=where, hint="Check the branch, tag or commit") from error
    except LocalTokenNotFoundError as error:
        raise InputError("the hub does not know you", where=where, hint="Run: hf auth login") from error
    except HFValidationError as error:
        raise InputError(f"the name is none of a repository ({error})", where=where) from error
    except (HfHubHTTPError, HTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "Check the network and HF_ENDPOINT, or share the head as a zip: histomix head push HEAD FILE.zip"
        raise DownloadError(f"the hub cannot be reached or refused ({reason})", where=where, hint=hint) from error
