"""A Hugging Face hub of one's own: a cache folder as its client leaves it, and a small server that speaks its API."""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_cache(cache: Path, repository: str, model: Path, revision: str = "main") -> Path:
    """Put a model into a cache, as if it had been downloaded; returns the snapshot's folder."""
    storage = cache / f"models--{repository.replace('/', '--')}"
    snapshot = storage / "snapshots" / COMMIT
    (storage / "refs").mkdir(parents=True)
    (storage / "refs" / revision).write_text(COMMIT)
    snapshot.parent.mkdir()
    snapshot.symlink_to(model, target_is_directory=True)
    return snapshot


class Hub:
    """What the server has, and what was asked of it."""

    def __init__(self, repositories: dict[str, Path]) -> None:
        self.repositories = repositories
        self.gated: set[str] = set()
        self.broken: set[str] = set()  # files that cannot be had
        self.downloads: Counter[str] = Counter()
        self.url = ""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve it on a free port of this machine, at ``hub.url``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            parts = urlsplit(self.path).path.strip("/").split("/")
            is_api = parts[:2] == ["api", "models"]
            repository, rest = "/".join(parts[2:4] if is_api else parts[:2]), parts[4:] if is_api else parts[2:]
            folder = hub.repositories.get(repository)
            if folder is None:
                self._send(401, b'{"error": "Invalid username or password."}', {"X-Error-Code": "RepoNotFound"}, body)
            elif repository in hub.gated and not is_api:
                self._send(403, b'{"error": "gated"}', {"X-Error-Code": "GatedRepo"}, body)
            elif rest[1] not in ("main", "v1", COMMIT):
                self._send(404, b'{"error": "no revision"}', {"X-Error-Code": "RevisionNotFound"}, body)
            elif is_api:
                files = sorted(file for file in folder.rglob("*") if file.is_file())
                listed = [{"type": "file", "path": str(f.relative_to(folder)), "size": f.stat().st_size} for f in files]
                tree = [entry | {"oid": hashlib.sha1(str(entry["path"]).encode()).hexdigest()} for entry in listed]
                info = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": entry["path"]} for entry in tree]}
                self._send(200, json.dumps(tree if rest[0] == "tree" else info).encode(), {}, body)
            else:
                self._send_file(folder, "/".join(rest[2:]), body)

        def _send_file(self, folder: Path, name: str, body: bool) -> None:
            if not (folder / name).is_file():
                return self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
            if name in hub.broken:
                return self._send(400, b"", {}, body)  # after which, unlike 500, the client does not try again
            hub.downloads[name] += body
            content = (folder / name).read_bytes()
            etag = hashlib.sha1(name.encode()).hexdigest()
            return self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, body)

        def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
