"""Weight files from and to others: web addresses, and names on the Hugging Face Hub.

A pulled model lies in the cache as models/NAME.safetensors, with its address and SHA-256 beside it in NAME.json.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType
from urllib.parse import quote, unquote, urlsplit

from keywarp.errors import UserError
from keywarp.files import laid_out_as, read_json, write_atomically
from keywarp.networks.description import Description, readable
from keywarp.networks.download import cache_folder, download, sha256_of
from keywarp.networks.weight_files import read_description

WEB = re.compile(r"https?://[^/]+/.*")
HUB = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:/(?P<file>.+\.safetensors))?")
NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Pulled:
    """A model in the cache. name: for --model. address: where it came from. path: of its weight file."""

    name: str
    address: str
    sha256: str
    path: Path


def pull(address: str, *, name: str | None = None, sha256: str | None = None, taken: Collection[str] = ()) -> Pulled:
    """Download a keywarp weight file into the cache; what is not one, or not as expected, is not kept.

    address: https://…, or owner/repo or owner/repo/FILE.safetensors on the Hugging Face Hub. name: by default the
    file's or the repository's. sha256: what the file must have. taken: names that mean something else.
    Raises UserError.
    """
    web, hub = WEB.fullmatch(address), HUB.fullmatch(address)
    if not web and not hub:
        raise UserError(f"a model's address is https://…, owner/repo or owner/repo/FILE.safetensors, got {address!r}")
    name = name or _default_name(address)
    if not NAME.fullmatch(name) or name in taken:
        raise UserError(f"a pulled model cannot be called {name!r}; give another --name, of letters, digits, . _ -")
    path = models_folder() / f"{name}.safetensors"
    before = next((model for model in pulled() if model.name == name), None)
    if before is not None and before.address != address:
        raise UserError(f"there is a model {name} from {before.address} already; give this one another --name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".pull-") as scratch:
            if hub:
                part = _from_hub(hub["repository"], hub["file"], Path(scratch))
            else:
                part = Path(scratch) / "model.safetensors"
                download(address, part)
            got = sha256_of(part)
            if sha256 is not None and got != sha256.lower():
                raise UserError(f"{address} should have SHA-256 {sha256}, came with {got}; nothing was kept")
            _check(part, address)
            os.replace(part, path)
            write_atomically(path.with_suffix(".json"), json.dumps({"address": address, "sha256": got}))
    except OSError as error:
        raise UserError(
            f"cannot write to {path.parent} ({error.strerror}); set KEYWARP_CACHE to another folder"
        ) from error
    return Pulled(name, address, got, path)


def push(file: Path, address: str, *, private: bool = False) -> str:
    """Publish a keywarp weight file; the address to pull it from.

    address: owner/repo on the Hugging Face Hub, made if need be, where it becomes model.safetensors with a README.md
    written from its description (in place of one that is there); or a web address that takes PUT, for the file alone.
    private: of a repository that is made.
    Raises UserError.
    """
    description = read_description(file)
    if WEB.fullmatch(address):
        target = address + quote(file.name) if address.endswith("/") else address
        _put(file, target)
        return target
    hub = HUB.fullmatch(address)
    if not hub or hub["file"]:
        raise UserError(f"push to owner/repo or to an https://… address that takes PUT, got {address!r}")
    card = model_card(description, address, sha256_of(file)).encode()
    with _hub(address) as hugging_face:
        api = hugging_face.HfApi()
        api.create_repo(address, private=private, exist_ok=True)
        add = hugging_face.CommitOperationAdd
        operations = [add("model.safetensors", str(file)), add("README.md", card)]
        api.create_commit(address, operations, commit_message=f"keywarp {description['method']}")
    return address


def find(name: str) -> Path | None:
    """The weight file of a pulled model, by its name or by the address it came from; None if there is none.

    Raises UserError if it is no longer what was pulled.
    """
    for model in pulled():
        if name in (model.name, model.address):
            if (got := sha256_of(model.path)) != model.sha256:
                raise UserError(
                    f"{model.path} should have SHA-256 {model.sha256}, has {got}; `keywarp models pull` it again"
                )
            return model.path
    return None


def pulled() -> list[Pulled]:
    """The models in the cache. Raises UserError where what is told of one is damaged."""
    models = []
    for record in sorted(models_folder().glob("*.json")):
        path = record.with_suffix(".safetensors")
        if path.is_file():
            about = read_json(record)
            with laid_out_as("the record of a pulled model", record):
                models.append(Pulled(record.stem, about["address"], about["sha256"], path))
    return models


def models_folder() -> Path:
    """Where pulled models are kept."""
    return cache_folder() / "models"


def is_address(name: str) -> bool:
    """Whether `pull` takes this as --model: a web address or owner/repo, but not what looks like a local file."""
    hub = HUB.fullmatch(name)
    of_hub = hub is not None and not hub["file"] and Path(name).suffix not in (".safetensors", ".pth", ".pt")
    return of_hub or WEB.fullmatch(name) is not None


def model_card(description: Description, repository: str, sha256: str) -> str:
    """README.md for the Hugging Face Hub: how to run the model, and its description."""
    segments = description["arguments"].get("task") == "segmentation"
    task, command = ("image-segmentation", "segment") if segments else ("object-detection", "detect")
    rows = [*readable(description), ("SHA-256", sha256)]
    table = "\n".join(f"| {name} | {text.replace('|', '/')} |" for name, text in rows)
    return (
        f"---\nlibrary_name: keywarp\npipeline_tag: {task}\ntags:\n- video\n---\n\n"
        f"# {repository.split('/')[1]}\n\n"
        f"A video model for [keywarp](https://pypi.org/project/keywarp): {description['method']}.\n\n"
        f"```\npip install 'keywarp[hub]'\nkeywarp {command} VIDEO --model {repository}\n```\n\n"
        f"| | |\n|---|---|\n{table}\n"
    )


def _default_name(address: str) -> str:
    stem = PurePosixPath(unquote(urlsplit(address).path)).stem
    hub = HUB.fullmatch(address)
    if hub and (hub["file"] is None or stem == "model"):
        return hub["repository"].split("/")[1]
    return stem


def _check(part: Path, address: str) -> None:
    try:
        read_description(part)
    except UserError as error:
        reason = str(error).removeprefix(f"{part} ").split(";")[0]
        raise UserError(f"{address} is no keywarp weight file (it {reason}); nothing was kept") from None


def _from_hub(repository: str, file: str | None, folder: Path) -> Path:
    """The file, or the repository's only weight file, downloaded into the folder."""
    with _hub(repository) as hugging_face:
        api = hugging_face.HfApi()
        if file is None:
            files = api.list_repo_files(repository)
            weights = [name for name in files if name.endswith(".safetensors")]
            if "model.safetensors" not in weights and len(weights) != 1:
                found = f"several: {', '.join(weights)}" if weights else "no .safetensors file"
                raise UserError(f"{repository} has {found}; name one as {repository}/FILE.safetensors")
            file = "model.safetensors" if "model.safetensors" in weights else weights[0]
        return Path(api.hf_hub_download(repository, file, local_dir=folder))


@contextmanager
def _hub(repository: str) -> Iterator[ModuleType]:
    """The Hugging Face client; its errors come out as one line."""
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            f"{repository} is no file here; as a Hugging Face name it needs: pip install 'keywarp[hub]'"
        ) from None
    try:
        yield huggingface_hub
    except UserError:
        raise
    except Exception as error:  # whose HTTP library, and with it the errors, changes from version to version
        status = getattr(getattr(error, "response", None), "status_code", None)
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        if status in (401, 403, 404):
            reason = f"{status}: no such file or repository, or not yours: `hf auth login` if it is"
        raise UserError(f"{repository} on {huggingface_hub.constants.ENDPOINT}: {reason}") from None


def _put(file: Path, url: str) -> None:
    with file.open("rb") as content:
        headers = {"Content-Length": str(file.stat().st_size), "Content-Type": "application/octet-stream"}
        try:
            request = urllib.request.Request(url, data=content, method="PUT", headers=headers)
            with urllib.request.urlopen(request, timeout=60):
                pass
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = error if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", error)
            raise UserError(f"could not upload to {url} ({reason}); does the address take PUT?") from error
