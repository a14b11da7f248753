"""The part of the Hub's HTTP interface that publishing and loading use, on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

TOKEN = "hf_good"
OWNER = "alice"
INLINE = (".md", ".json", ".yaml", ".py", ".txt", ".csv")  # the rest goes as large files


class Hub(ThreadingHTTPServer):
    """Repositories in memory: (kind, name) -> {path: bytes}; `cut` breaks what it is told to."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[tuple[str, str], dict[str, bytes]] = {}
        self.private: dict[tuple[str, str], bool] = {}
        self.large: dict[str, bytes] = {}
        self.commits = 0
        self.cut = ""  # "upload" or "commit": the connection ends in the middle of it

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status: int, value=None, headers=None, body: bytes | None = None):
        body = json.dumps(value).encode() if body is None else body
        self.send_response(status)
        for key, text in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, text: str):
        self.answer(status, {"error": text}, {"X-Error-Message": text})

    def read(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def allowed(self, name: str) -> bool:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refuse(401, "Invalid username or password.")
        elif name.split("/")[0] != OWNER:
            self.refuse(403, "You don't have the rights to do this")
        else:
            return True
        return False

    def hang_up(self):
        self.close_connection = True
        self.connection.close()

    def do_POST(self):
        parts = [unquote(p) for p in urlparse(self.path).path.strip("/").split("/")]
        body = self.read()
        if parts[:3] == ["api", "repos", "create"]:
            asked = json.loads(body)
            name, kind = f"{asked['organization']}/{asked['name']}", asked.get("type") or "model"
            if not self.allowed(name):
                return
            if (kind, name) in self.server.repos:
                self.refuse(409, "You already created this repo")
                return
            self.server.repos[kind, name] = {".gitattributes": b""}
            self.server.private[kind, name] = asked.get("visibility") == "private"
            self.answer(200, {"url": f"{self.server.url}/{name}"})
        elif parts[0] == "api" and parts[1] == "validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif parts[-3:] == ["lfs", "objects", "batch"]:
            objects = []
            for item in json.loads(body)["objects"]:
                action = {"href": f"{self.server.url}/lfs/{item['oid']}"}
                have = item["oid"] in self.server.large
                objects.append({**item} if have else {**item, "actions": {"upload": action}})
            self.answer(200, {"transfer": "basic", "objects": objects})
        else:
            kind, name, what = parts[1].removesuffix("s"), "/".join(parts[2:4]), parts[4]
            if not self.allowed(name):
                return
            if what == "preupload":
                files = [
                    {
                        "path": f["path"],
                        "uploadMode": "regular" if f["path"].endswith(INLINE) else "lfs",
                        "shouldIgnore": False,
                    }
                    for f in json.loads(body)["files"]
                ]
                self.answer(200, {"files": files})
            elif what == "commit":
                if self.server.cut == "commit":
                    self.hang_up()
                    return
                made = self.server.repos[kind, name]
                for line in body.splitlines():
                    entry = json.loads(line)
                    value = entry["value"]
                    if entry["key"] == "file":
                        made[value["path"]] = base64.b64decode(value["content"])
                    elif entry["key"] == "lfsFile":
                        made[value["path"]] = self.server.large[value["oid"]]
                self.server.commits += 1
                oid = f"{self.server.commits:040x}"
                self.answer(200, {"commitUrl": f"{self.server.url}/{name}", "commitOid": oid})

    def do_PUT(self):
        oid = self.path.rsplit("/", 1)[1]
        if self.server.cut == "upload":
            self.rfile.read(10)
            self.hang_up()
            return
        data = self.read()
        assert hashlib.sha256(data).hexdigest() == oid
        self.server.large[oid] = data
        self.answer(200, {})

    def do_GET(self):
        parts = [unquote(p) for p in urlparse(self.path).path.strip("/").split("/")]
        if parts[0] == "api":
            kind, name = parts[1].removesuffix("s"), "/".join(parts[2:4])
            files = self.server.repos.get((kind, name))
            if files is None:
                self.refuse(404, "Repository not found")
            elif len(parts) > 4 and parts[4] == "tree":
                self.answer(
                    200,
                    [
                        {"type": "file", "path": path, "size": len(data), "oid": "0" * 40}
                        for path, data in files.items()
                    ],
                )
            else:
                listed = [{"rfilename": path} for path in files]
                self.answer(200, {"id": name, "sha": "0" * 39 + "1", "siblings": listed})
            return
        name, path = "/".join(parts[:2]), "/".join(parts[4:])
        data = self.server.repos.get(("model", name), {}).get(path)
        if data is None:
            self.answer(404, {}, {"X-Error-Code": "EntryNotFound"})
            return
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        self.answer(200, headers={"ETag": etag, "X-Repo-Commit": "0" * 39 + "1"}, body=data)

    do_HEAD = do_GET
