"""A stand-in for the Hugging Face hub on this machine: the endpoints that `huggingface_hub` calls for one model.

Models are kept in memory. Files of weights travel as on the hub: they are announced to the LFS endpoint, put at another
address, and named by their hash in a commit, and a reader is redirected to them.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_someone_who_may_write"
READ_TOKEN = "hf_of_someone_who_may_only_read"
LICENSES = ("mit", "apache-2.0")


class Request(NamedTuple):
    method: str
    path: str


@dataclass
class Repository:
    """A model: the files of each commit, the newest commit last."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    summaries: list[str] = field(default_factory=list)

    def add(self, files: dict[str, bytes], summary: str = "") -> str:
        """Commit files on top of the newest commit; the hash of the commit."""
        tree = {**self.files(), **files}
        content = json.dumps([len(self.commits), sorted(files)]).encode() + b"".join(tree.values())
        commit = hashlib.sha1(content).hexdigest()
        self.commits[commit] = tree
        self.summaries.append(summary)
        return commit

    @property
    def head(self) -> str:
        return next(reversed(self.commits))

    def files(self) -> dict[str, bytes]:
        return self.commits[self.head] if self.commits else {}

    def commit_of(self, revision: str) -> str | None:
        """The commit of a branch or of a commit's hash."""
        return self.head if revision == "main" else revision if revision in self.commits else None


class HubServer:
    """Serves `models` at `url` until `close`. `fault` may answer a request with a status and a code of the hub."""

    def __init__(self) -> None:
        self.models: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.fault: Callable[[Request], tuple[int, str] | None] = lambda request: None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def publish(self, name: str, files: dict[str, bytes], *, private: bool = False) -> str:
        """Put a model on the hub; its commit."""
        return self.models.setdefault(name, Repository(private, {"0" * 40: {}})).add(files)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        self.status, self.code, self.message = status, code, message
        super().__init__(message)


_NO_MODEL = "Repository not found"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, hub: HubServer, *args: object) -> None:
        self.hub = hub
        super().__init__(*args)

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path)
        request = Request(self.command, path)
        self.hub.requests.append(request)
        try:
            if fault := self.hub.fault(request):
                raise _Refused(*fault, "a fault of the test")
            for method, pattern, answer in _ROUTES:
                if self.command in method.split() and (found := re.fullmatch(pattern, path)):
                    return answer(self, **found.groupdict())
            raise _Refused(404, "", f"no endpoint {path}")
        except _Refused as refused:
            self._json({"error": refused.message}, refused.status, {"X-Error-Code": refused.code})

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def _bytes(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        kind = {"Content-Type": "application/json"}
        self._bytes(json.dumps(value).encode(), status, {**kind, **(headers or {})})

    @property
    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _require_writer(self) -> None:
        if self._token not in (TOKEN, READ_TOKEN):
            raise _Refused(401, "", "Invalid username or password.")
        if self._token != TOKEN:
            raise _Refused(403, "", "You have read access but not the required permissions")

    def _model(self, name: str) -> Repository:
        """The model, if whoever asks may see it. The hub tells others that it does not exist."""
        found = self.hub.models.get(name)
        known = self._token in (TOKEN, READ_TOKEN)
        if found is None or (found.private and not known):
            raise _Refused(404 if known else 401, "RepoNotFound", _NO_MODEL)
        return found

    def create(self) -> None:
        asked = json.loads(self.body)
        self._require_writer()
        name = f"{asked['organization']}/{asked['name']}"
        answer = {"url": f"{self.hub.url}/{name}", "name": name}
        if name in self.hub.models:
            return self._json(
                {**answer, "error": "You already created this model repo"}, 409, {"X-Error-Code": ""}
            )
        self.hub.models[name] = Repository(
            private=asked.get("visibility") == "private" or asked.get("private", False)
        )
        self.hub.models[name].add({".gitattributes": b""}, "initial commit")
        self._json(answer)

    def info(self, name: str, revision: str | None) -> None:
        found = self._model(name)
        commit = found.commit_of(revision or "main")
        if commit is None:
            raise _Refused(404, "RevisionNotFound", "Invalid rev id")
        card = found.commits[commit].get("README.md", b"").decode()
        library = re.search(r"^library_name: (.+)$", card, re.MULTILINE)
        self._json(
            {
                "id": name,
                "sha": commit,
                "private": found.private,
                "siblings": [{"rfilename": file} for file in found.commits[commit]],
                **({"library_name": library[1]} if library else {}),
            }
        )

    def validate(self) -> None:
        card = json.loads(self.body)["content"]
        license = re.search(r"^license: (.+)$", card, re.MULTILINE)
        errors = []
        if license and license[1] not in LICENSES:
            errors = [{"message": f'"license" must be one of [{", ".join(LICENSES)}]'}]
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def preupload(self, name: str) -> None:
        self._model(name)
        self._require_writer()
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(self.body)["files"]
        ]
        self._json({"files": files})

    def batch(self, name: str) -> None:
        self._model(name)
        self._require_writer()
        objects = [
            {
                **wanted,
                **(
                    {}
                    if wanted["oid"] in self.hub.large
                    else {"actions": {"upload": {"href": f"{self.hub.url}/large/{wanted['oid']}"}}}
                ),
            }
            for wanted in json.loads(self.body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def put_large(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refused(400, "", "the content has another hash")
        self.hub.large[oid] = self.body
        self._bytes(b"")

    def get_large(self, oid: str) -> None:
        self._bytes(self.hub.large[oid])

    def commit(self, name: str) -> None:
        found = self._model(name)
        self._require_writer()
        lines = [json.loads(line) for line in self.body.splitlines()]
        files, summary = {}, ""
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                summary = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            else:
                raise _Refused(400, "", f"unknown key {line['key']}")
        commit = found.add(files, summary)
        self._json({"commitOid": commit, "commitUrl": f"{self.hub.url}/{name}/commit/{commit}"})

    def resolve(self, name: str, revision: str, file: str) -> None:
        found = self._model(name)
        commit = found.commit_of(revision)
        if commit is None:
            raise _Refused(404, "RevisionNotFound", "Invalid rev id")
        headers = {"X-Repo-Commit": commit}
        content = found.commits[commit].get(file)
        if content is None:
            return self._json({"error": "Entry not found"}, 404, {**headers, "X-Error-Code": "EntryNotFound"})
        oid = hashlib.sha256(content).hexdigest()
        if not file.endswith(".safetensors"):
            return self._bytes(content, 200, {**headers, "ETag": f'"{oid[:40]}"'})
        self.hub.large[oid] = content
        # another host, as on the hub: the library follows redirects on the same host at once
        to = {"Location": f"{self.hub.url.replace('127.0.0.1', 'localhost')}/large/{oid}"}
        linked = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
        self._bytes(b"", 302, {**headers, **linked, **to})

    def log_message(self, *_: object) -> None:
        pass


_NAME = r"(?P<name>[^/]+/[^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.validate),
    ("GET", rf"/api/models/{_NAME}(/revision/(?P<revision>.+))?", _Handler.info),
    ("POST", rf"/api/models/{_NAME}/preupload/main", _Handler.preupload),
    ("POST", rf"/api/models/{_NAME}/commit/main", _Handler.commit),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", r"/large/(?P<oid>\w+)", _Handler.put_large),
    ("GET HEAD", r"/large/(?P<oid>\w+)", _Handler.get_large),
    ("GET HEAD", rf"/{_NAME}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", _Handler.resolve),
]
