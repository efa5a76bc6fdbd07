import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from keywarp import __version__
from keywarp.errors import UserError
from keywarp.networks.weight_files import load_weights, read_description, read_state_dict, save_model


def layers(width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("nested", [None, "state_dict", "model"])
def test_files_come_back(tmp_path, suffix, nested):
    module, path = layers(), tmp_path / f"weights.{suffix}"
    if suffix == "safetensors":
        save_file(module.state_dict(), path)
    else:
        torch.save({nested: module.state_dict()} if nested else module.state_dict(), path)
    other = layers()
    load_weights(other, path)
    for ours, theirs in zip(other.state_dict().values(), module.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("content", [b"", b"not weights at all", pickle.dumps({"a": print}, protocol=2), b"\x80\x02"])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_other_files_are_refused_in_one_line(tmp_path, content, suffix):
    path = tmp_path / f"bad.{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match="no weight file") as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)


def test_a_pickle_is_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(UserError):
        read_state_dict(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


def test_what_does_not_match_is_named():
    state = layers(5).state_dict()
    del state["1.bias"]
    state["head.weight"] = torch.zeros(1)
    with pytest.raises(UserError) as caught:
        load_weights(layers(), state)
    message = str(caught.value)
    assert "1 missing: 1.bias" in message
    assert "0.weight (wanted [4, 3, 3, 3], got [5, 3, 3, 3])" in message
    assert "1 unknown: head.weight" in message
    load_weights(layers(5), state, ignore=("head.", "1.bias"))


@pytest.mark.parametrize("half", [False, True])
def test_own_files_say_how_to_build_the_model(tmp_path, half):
    module, path = layers(), tmp_path / "model.safetensors"
    given = {"method": "dff", "arguments": {"interval": 10}, "classes": ["a"], "metrics": {"mAP": 0.5}}
    digest = save_model(path, module, given, half=half)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    description = read_description(path)
    assert description.pop("versions").items() >= {"keywarp": __version__, "torch": torch.__version__}.items()
    assert description == given
    other = layers()
    load_weights(other, path)
    torch.testing.assert_close(other[0].weight, module[0].weight, atol=1e-3 if half else 0, rtol=0)
    assert read_state_dict(path)["0.weight"].dtype == (torch.float16 if half else torch.float32)
    assert read_state_dict(path)["1.running_var"].dtype == torch.float32  # may exceed what half precision holds
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_model(path, layers(), {"method": "rfcn"})
    before = path.read_bytes()

    def full(file, data):
        file.write_text("half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        save_model(path, layers(), {"method": "dff"})
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_without_a_description_says_what_to_do(tmp_path):
    save_file(layers().state_dict(), tmp_path / "plain.safetensors")
    with pytest.raises(UserError, match="--weights"):
        read_description(tmp_path / "plain.safetensors")


@pytest.mark.parametrize("description", ["", "{", "[1]", "3", "{}", '{"method": 1, "arguments": {}}'])
def test_a_broken_description_is_named(tmp_path, description):
    save_file(layers().state_dict(), tmp_path / "odd.safetensors", metadata={"keywarp": description})
    with pytest.raises(UserError, match="does not say how"):
        read_description(tmp_path / "odd.safetensors")


def test_what_is_no_file_of_tensors(tmp_path):
    with pytest.raises(UserError, match="no weight file"):
        read_state_dict(tmp_path / "absent.pth")
    with pytest.raises(UserError, match="there is no file"):
        read_description(tmp_path / "absent.safetensors")
    for content in ([torch.zeros(1)], {0: torch.zeros(1)}, {"epoch": 3}):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(UserError, match="no dictionary of tensors"):
            read_state_dict(tmp_path / "other.pth")
