"""A hub on this computer: enough of its HTTP interface for huggingface_hub to push and pull, unchanged."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub:
    """Repositories as ``{name: [(commit, {file: bytes})]}``, oldest first, and what was asked of them."""

    def __init__(self) -> None:
        self.repositories: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.private: dict[str, bool] = {}
        self.asked: list[str] = []
        self.endpoint = ""
        #: Sizes to tell instead of the true ones, and bytes to serve instead of the true ones.
        self.lies: dict[str, int] = {}
        self.swapped: dict[str, bytes] = {}

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        before = self.repositories.setdefault(repo, [])
        name = hashlib.sha1(repr((len(before), sorted(files.items()))).encode()).hexdigest()
        before.append((name, files))
        return name

    def at(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.repositories.get(repo, [])
        found = [one for one in commits if one[0] == revision]
        return commits[-1] if revision == "main" and commits else found[0] if found else None


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def _send(self, status: int, data: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _missing(self, code: str) -> None:
        self._json({"error": code}, 404, {"X-Error-Code": code})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            self._info("/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main")
        elif len(parts) == 5 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), parts[3], parts[4])
        else:
            self._missing("EntryNotFound")

    def _info(self, repo: str, revision: str) -> None:
        if repo not in self.hub.repositories:
            return self._missing("RepoNotFound")
        found = self.hub.at(repo, revision)
        if found is None:
            return self._missing("RevisionNotFound")
        files = [
            {"rfilename": name, "size": self.hub.lies.get(name, len(data)), "blobId": "0" * 40}
            for name, data in {".gitattributes": b"x", **found[1]}.items()
        ]
        return self._json(
            {"id": repo, "modelId": repo, "sha": found[0], "private": False, "tags": [], "siblings": files}
        )

    def _file(self, repo: str, revision: str, name: str) -> None:
        found = self.hub.at(repo, revision)
        if found is None or name not in found[1]:
            return self._missing("EntryNotFound")
        data = self.hub.swapped.get(name, found[1][name])
        etag = f'"{hashlib.sha1(data).hexdigest()}"'
        return self._send(200, data, {"ETag": etag, "X-Repo-Commit": found[0], "Accept-Ranges": "none"})

    def do_POST(self) -> None:
        self.hub.asked.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts == ["api", "repos", "create"]:
            facts = json.loads(body)
            repo = "/".join(filter(None, (facts.get("organization"), facts["name"])))
            self.hub.repositories.setdefault(repo, [])
            self.hub.private.setdefault(repo, facts.get("private", facts.get("visibility") == "private"))
            self._json({"url": f"{self.hub.endpoint}/{repo}", "name": repo})
        elif parts[-2:-1] == ["preupload"]:
            files = json.loads(body)["files"]
            self._json(
                {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]}
            )
        elif parts[-2:-1] == ["commit"]:
            repo = "/".join(parts[2:4])
            lines = [json.loads(line) for line in body.splitlines() if line.strip()]
            files = {
                one["value"]["path"]: base64.b64decode(one["value"]["content"]) for one in lines if one["key"] == "file"
            }
            commit = self.hub.commit(repo, files)
            self._json(
                {"commitOid": commit, "commitUrl": f"{self.hub.endpoint}/{repo}/commit/{commit}", "success": True}
            )
        elif parts[-1] == "validate-yaml":
            self._json({"errors": [], "warnings": []})
        else:
            self._missing("EntryNotFound")

    def _chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found


@contextlib.contextmanager
def fake_hub() -> Iterator[Hub]:
    """Serve a hub until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
