"""What a hub answers follows from the request and the stored commits alone.

The routes, headers and error codes are those that huggingface_hub 0.30 to 2.4 and hf_xet ask for and read:
https://huggingface.co/docs/hub/api and https://huggingface.co/docs/xet/api.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.support.hub_files import CHUNK, Commit, File, Repo, Store, git_sha, terms, xorb, xorb_name

API = re.compile(r"/api/(\w+)s/(.+?)(?:/(revision|tree|refs|paths-info|xet-read-token)(?:/(.*))?)?")
RESOLVE = re.compile(r"/(?:(dataset|space|kernel)s/)?(.+?)/resolve/([^/]+)/(.+)")
CDN = re.compile(r"/cdn/.*/([0-9a-f]{64})/[^/]+")
RECONSTRUCTION = re.compile(r"/v1/reconstructions/([0-9a-f]{64})")
XORB = re.compile(r"/xorbs/([0-9a-f]{64})/(\d+)/.*")

View = Literal["api", "files"]


@dataclass(frozen=True)
class Request:
    """Hold what came in; the path is as it was sent, with its query."""

    method: str
    path: str
    range: str | None = None
    authorization: str | None = None
    body: bytes = b""


@dataclass(frozen=True)
class Response:
    """Hold what goes out; a HEAD gets the same without the body."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class RefusedError(Exception):
    """Carry an answer that is an error."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        named = {"X-Error-Code": code} if code else {}
        self.response = document({"error": message}, {**named, "X-Error-Message": message, **(headers or {})}, status)


def document(content: Any, headers: Mapping[str, str] | None = None, status: int = 200) -> Response:
    body = json.dumps(content).encode()
    return Response(status, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}, body)


def file_range(text: str | None, size: int) -> tuple[int, int] | None:
    """Return the start and the end (exclusive) that a Range header asks for, or None for the whole."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", text or "")
    if not match or match.group(1) == match.group(2) == "":
        return None
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    if start >= size:
        raise RefusedError(416, "", "range not satisfiable", {"Content-Range": f"bytes */{size}"})
    return start, min(int(last) + 1, size) if first and last else size


def content(data: bytes, request: Request, headers: Mapping[str, str]) -> Response:
    """Answer with bytes, or with the range of them that was asked for."""
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
    asked = file_range(request.range, len(data)) if request.method == "GET" else None
    if asked is None:
        return Response(200, headers, data)
    start, end = asked
    return Response(206, {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}, data[start:end])


def described(path: str, file: File, commit: Commit, expand: bool) -> dict[str, Any]:
    """Describe a file as the tree does."""
    entry: dict[str, Any] = {"type": "file", "oid": file.blob, "size": file.size, "path": path}
    if file.lfs:
        entry["lfs"] = {name: value for name, value in file.lfs.items() if name != "sha256"}
    if file.xet:
        entry["xetHash"] = file.xet
    if expand:
        entry["lastCommit"] = {"id": commit.sha, "title": "Upload", "date": commit.when}
        entry["securityFileStatus"] = {"status": "safe", "avScan": None, "pickleImportScan": None}
    return entry


@dataclass
class Answers:
    """Answer for one hub: its own addresses and its own idea of the branches, over a store that it may share."""

    store: Store
    endpoint: str = ""
    cdn: str = ""
    frozen: dict[tuple[tuple[str, str], str, View], str] = field(default_factory=dict)

    def answer(self, request: Request) -> Response:
        path = urlsplit(request.path).path
        try:
            if match := CDN.fullmatch(path):
                return self._cdn(match.group(1), request)
            if match := RECONSTRUCTION.fullmatch(path):
                return self._reconstruction(match.group(1), request)
            if match := XORB.fullmatch(path):
                return self._xorb(match.group(1), int(match.group(2)), request)
            if match := API.fullmatch(path):
                return self._api(request, *match.groups())
            if match := RESOLVE.fullmatch(path):
                return self._resolve(request, *match.groups())
        except RefusedError as refused:
            return refused.response
        return document({"error": "Sorry, we can't find the page you are looking for."}, status=404)

    def _repo(self, repo_type: str, repo_id: str, request: Request, files: bool) -> Repo:
        """Find a repository that the asker may see.

        Without a token a missing repository is a 401, as on the real hub, which does not tell it from a private one.
        The description of a gated repository is for everybody; its files are not.
        """
        renamed = self.store.renamed.get((repo_type, unquote(repo_id)))
        if renamed:
            location = request.path.replace(f"/{repo_id}", f"/{renamed}", 1)
            raise RefusedError(307, "", f"Temporary Redirect. Redirecting to {location}", {"Location": location})
        known = request.authorization == f"Bearer {self.store.token}"
        # A password in a mirror's address is for the proxy in front of it.
        if request.authorization and not known and not request.authorization.startswith("Basic "):
            raise RefusedError(401, "", "Invalid credentials in Authorization header")
        repo = self.store.repos.get((repo_type, unquote(repo_id)))
        if repo is None or (repo.private and not known):
            if not known:
                raise RefusedError(401, "RepoNotFound", "Invalid username or password.")
            raise RefusedError(404, "RepoNotFound", "Repository not found")
        if repo.gated and files and not known:
            raise RefusedError(401, "GatedRepo", f"Access to {repo_type} {repo.id} is restricted. Please log in.")
        if repo.gated and files and not repo.granted:
            raise RefusedError(403, "GatedRepo", f"Access to {repo_type} {repo.id} is restricted. Ask for it there.")
        return repo

    def _commit(self, repo: Repo, revision: str, view: View) -> Commit:
        revision = unquote(revision)
        sha = self.frozen.get(((repo.type, repo.id), revision, view))
        sha = sha or repo.branches.get(revision) or repo.tags.get(revision) or revision
        commit = repo.commits.get(sha)
        if commit is None:
            raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _api(self, request: Request, repo_type: str, repo_id: str, part: str | None, rest: str | None) -> Response:
        query = parse_qs(urlsplit(request.path).query)
        repo = self._repo(repo_type, repo_id, request, files=part == "xet-read-token")
        revision, _, folder = (rest or "main").partition("/")
        if part == "refs":
            return self._refs(repo)
        if part == "xet-read-token":
            return self._xet_token(repo)
        commit = self._commit(repo, revision, "api")
        if part == "tree":
            return self._tree(commit, unquote(folder), query)
        if part == "paths-info":
            return self._paths_info(commit, request)
        return self._info(repo, commit, query)

    def _info(self, repo: Repo, commit: Commit, query: Mapping[str, list[str]]) -> Response:
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in commit.files]
        if "blobs" in query:
            for sibling, file in zip(siblings, commit.files.values(), strict=True):
                sibling.update({"blobId": file.blob, "size": file.size}, **({"lfs": file.lfs} if file.lfs else {}))
        info = {
            "_id": git_sha(repo.id.encode())[:24],
            "id": repo.id,
            "author": repo.id.partition("/")[0],
            "sha": commit.sha,
            "lastModified": commit.when,
            "createdAt": min(commit.when for commit in repo.commits.values()),
            "private": repo.private,
            "gated": "auto" if repo.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": siblings,
            **({"modelId": repo.id} if repo.type == "model" else {}),
        }
        if "expand" in query:
            info = {name: value for name, value in info.items() if name in ("_id", "id", *query["expand"])}
        return document(info, {"X-Repo-Commit": commit.sha})

    def _tree(self, commit: Commit, folder: str, query: Mapping[str, list[str]]) -> Response:
        recursive, expand = (query.get(name, [""])[0].lower() in ("true", "1") for name in ("recursive", "expand"))
        prefix = f"{folder}/" if folder else ""
        inside = {path: file for path, file in commit.files.items() if path.startswith(prefix)}
        if not inside and folder:
            raise RefusedError(404, "EntryNotFound", f"{folder} does not exist", {"X-Repo-Commit": commit.sha})
        entries: dict[str, dict[str, Any]] = {}
        for path, file in inside.items():
            names = path.removeprefix(prefix).split("/")
            for depth in range(1, len(names) if recursive else min(2, len(names))):
                parent = prefix + "/".join(names[:depth])
                oid = git_sha("".join(file.blob for at, file in inside.items() if at.startswith(f"{parent}/")).encode())
                entries.setdefault(parent, {"type": "directory", "oid": oid, "size": 0, "path": parent})
            if recursive or len(names) == 1:
                entries[path] = described(path, file, commit, expand)
        return document(list(entries.values()), {"X-Repo-Commit": commit.sha})

    def _paths_info(self, commit: Commit, request: Request) -> Response:
        try:
            asked = json.loads(request.body)
        except ValueError:
            asked = parse_qs(request.body.decode())
        expand = str(asked.get("expand", "")).lower().strip("[]'") == "true"
        found = [path for path in asked.get("paths", []) if path in commit.files]
        return document([described(path, commit.files[path], commit, expand) for path in found])

    def _refs(self, repo: Repo) -> Response:
        def listed(kind: str, names: Mapping[str, str]) -> list[dict[str, str]]:
            return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": names[name]} for name in names]

        branches = {name: self._commit(repo, quote(name, safe=""), "api").sha for name in repo.branches}
        refs = {"branches": listed("heads", branches), "tags": listed("tags", repo.tags)}
        return document({**refs, "converts": [], "pullRequests": []})

    def _resolve(self, request: Request, repo_type: str | None, repo_id: str, revision: str, filename: str) -> Response:
        repo = self._repo(repo_type or "model", repo_id, request, files=True)
        commit = self._commit(repo, revision, "files")
        named = {"X-Repo-Commit": commit.sha}
        file = commit.files.get(unquote(filename))
        if file is None:
            raise RefusedError(404, "EntryNotFound", "Entry not found", named)
        if file.sha256 is None:
            return content(file.data, request, {**named, "ETag": f'"{file.etag}"'})
        location = f"{self.cdn}/cdn/{repo.type}s/{repo.id}/{file.sha256}/{filename.rpartition('/')[2]}"
        headers = {
            **named,
            "Location": location,
            "Accept-Ranges": "bytes",
            "Content-Type": "text/plain; charset=utf-8",
            "X-Linked-Size": str(file.size),
            "X-Linked-ETag": f'"{file.sha256}"',
        }
        if file.xet:
            route = f"{self.endpoint}/api/{repo.type}s/{repo.id}/xet-read-token/{commit.sha}"
            headers.update({"X-Xet-Hash": file.xet, "X-Xet-Refresh-Route": route, "Link": f'<{route}>; rel="xet-auth"'})
        return Response(302, headers, f"Found. Redirecting to {location}".encode())

    def _stored(self, name: str) -> File:
        file = self.store.contents.get(name)
        if file is None:
            raise RefusedError(404, "", f"{name} is not stored")
        return file

    def _cdn(self, sha256: str, request: Request) -> Response:
        return content(self._stored(sha256).data, request, {"ETag": f'"{sha256}"'})

    def _xet_token(self, repo: Repo) -> Response:
        token, expiry = f"xet {repo.type}s/{repo.id}", int(time.time()) + 3600
        headers = {"X-Xet-Cas-Url": self.cdn, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(expiry)}
        return document({"casUrl": self.cdn, "accessToken": token, "exp": expiry}, headers)

    def _reconstruction(self, name: str, request: Request) -> Response:
        """Tell of which chunks a file is made and where they are.

        The token tells the repository, so that the xorbs' paths can name it and the file, for the log and the holds.
        """
        file = self._stored(name)
        scheme, _, place = (request.authorization or "").partition(" xet ")
        repo = next((repo for repo in self.store.repos.values() if f"{repo.type}s/{repo.id}" == place), None)
        if scheme != "Bearer" or repo is None:
            raise RefusedError(401, "", "no token")
        path = next(path for commit in repo.commits.values() for path, at in commit.files.items() if at.xet == name)
        start, end = file_range(request.range, file.size) or (0, file.size)
        runs, fetch = [], {}
        for term in terms(file, start, end):
            hashed = xorb_name(file, term.xorb)
            chunks = {"start": term.chunks[0], "end": term.chunks[1]}
            packed = {"start": term.packed[0], "end": term.packed[1]}
            url = f"{self.cdn}/xorbs/{name}/{term.xorb}/{place}/{quote(path)}"
            runs.append({"hash": hashed, "unpacked_length": term.unpacked, "range": chunks})
            fetch[hashed] = [{"range": chunks, "url": url, "url_range": packed}]
        return document({"offset_into_first_range": start % CHUNK, "terms": runs, "fetch_info": fetch})

    def _xorb(self, name: str, number: int, request: Request) -> Response:
        return content(xorb(self._stored(name), number), request, {})
