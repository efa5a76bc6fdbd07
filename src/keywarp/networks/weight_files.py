"""Weight files: reading others', and keywarp's own, which say how to build the model they belong to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torchvision.models import get_model_weights, list_models

from keywarp.errors import UserError, unknown
from keywarp.files import write_atomically
from keywarp.networks.description import Description, completed


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a .pth / .pt file (never unpickling code), by name."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no weight file {path}; check the path")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch.load raise nearly anything
        # What safetensors says is of use; torch's stories of `weights_only` and single opcodes are not.
        reason = f": {str(error).splitlines()[0][:120]}" if isinstance(error, SafetensorError) else ""
        raise UserError(f"{path} is no weight file (.safetensors, or .pth of tensors only){reason}") from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise UserError(f"{path} holds no dictionary of tensors; save model.state_dict()")
    return state


def load_weights(module: nn.Module, weights: str | Path | Mapping[str, Tensor], *, ignore: Sequence[str] = ()) -> None:
    """Fill the module; raises UserError that names what does not match.

    weights: a file or tensors by name. ignore: beginnings of names that may be missing, left over or of another shape.
    """
    state = dict(weights) if isinstance(weights, Mapping) else read_state_dict(weights)
    where = "these weights" if isinstance(weights, Mapping) else str(weights)
    own = module.state_dict()
    ignored = tuple(ignore)
    missing = [n for n in own if n not in state and not n.startswith(ignored) and not n.endswith("num_batches_tracked")]
    left_over = [n for n in state if n not in own and not n.startswith(ignored)]
    misshapen = [
        f"{n} (wanted {list(own[n].shape)}, got {list(state[n].shape)})"
        for n in own
        if n in state and own[n].shape != state[n].shape and not n.startswith(ignored)
    ]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
        for what, names in (("missing", missing), ("of another shape", misshapen), ("unknown", left_over))
        if names
    ]
    if problems:
        raise UserError(f"{where} do not fit this {type(module).__name__}: {'; '.join(problems)}")
    module.load_state_dict({n: t for n, t in state.items() if n in own and own[n].shape == t.shape}, strict=False)


def save_model(path: Path, module: nn.Module, description: Mapping[str, Any], *, half: bool = False) -> str:
    """Write the module's tensors with their `Description`, whole or not at all; the file's SHA-256.

    description: what `read_description` is to give; input size, normalisation and versions are added to it.
    half: kernels and matrices in half precision; vectors (biases, batch norms), which are few and may be large, stay.
    """
    tensors = {
        name: (t.half() if half and t.is_floating_point() and t.ndim > 1 else t).detach().cpu().contiguous()
        for name, t in module.state_dict().items()
    }
    # Files of safetensors' own save_file are for their owner alone.
    content = save(tensors, metadata={"keywarp": json.dumps(completed(module, description))})
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def read_header(path: str | Path) -> dict[str, Any]:
    """What a keywarp weight file says of itself: a model, or a flow network by itself. Raises UserError."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(json.loads((file.metadata() or {})["keywarp"]))
    except FileNotFoundError:
        raise UserError(f"there is no file {path}, or it cannot be read") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is no .safetensors file: {error}") from None
    except (KeyError, ValueError, TypeError):
        raise _untold(path) from None


def read_description(path: str | Path) -> Description:
    """How to build the model of a keywarp weight file, and what is known of it; raises UserError if it is none."""
    header = read_header(path)
    if "flow" in header:
        raise UserError(f"{path} holds a flow network, {header['flow']}; give it to `keywarp train` as --init-flow")
    if not isinstance(header.get("method"), str) or not isinstance(header.get("arguments"), dict):
        raise _untold(path)
    return cast(Description, {"classes": []} | header)


def _untold(path: str | Path) -> UserError:
    return UserError(f"{path} does not say how to build its model; name one with --model rfcn or dff and --weights")


def torchvision_state(name: str, weights: str | Path) -> dict[str, Tensor]:
    """The tensors of a torchvision model: by the name of its weights ("DEFAULT", …; downloaded once) or from a file."""
    if Path(weights).suffix:
        return read_state_dict(weights)
    if name not in list_models():
        raise UserError(f"torchvision has no weights for {name}; give a file (.safetensors, .pth), got {weights!r}")
    known = get_model_weights(name)
    if weights not in known.__members__:
        raise unknown("weights", str(weights), known.__members__)
    entry = known[str(weights)]
    try:
        return dict(entry.get_state_dict(progress=True, check_hash=True, weights_only=True))
    except OSError as error:  # URLError is one
        raise UserError(f"cannot download {entry.url} ({error}); download it elsewhere and give the file") from None
