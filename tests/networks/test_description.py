import json
import subprocess
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import keywarp
from keywarp.errors import UserError
from keywarp.loading import load
from keywarp.methods import METHODS
from keywarp.networks.description import completed, readable
from keywarp.networks.weight_files import read_description, save_model


@pytest.fixture
def saved(tmp_path):
    model = METHODS["dff"](
        "resnet-tiny", flow="flownet-tiny", classes=("cat", "dog"), num_classes=2, shorter=64, longer=96
    )
    training = {"data": ["pets:train"], "step": 70, "config": {"steps": 100, "seed": 3}}
    path, about = tmp_path / "pets.safetensors", {"classes": list(model.classes), "training": training}
    save_model(path, model, model.description | about | {"metrics": {"mAP": 0.512345}})
    return path


def rewritten(path, change):
    """The file with another description."""
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["keywarp"])
    change(description)
    save_file(load_file(path), path, metadata={"keywarp": json.dumps(description)})
    return path


def test_a_file_tells_all(saved):
    description = read_description(saved)
    assert description["method"] == "dff"
    assert description["arguments"]["backbone"] == "resnet-tiny"
    assert (description["input"]["shorter"], description["input"]["longer"]) == (64, 96)
    assert description["normalisation"]["colours"] == "RGB"
    assert description["normalisation"]["mean"] == pytest.approx([123.675, 116.28, 103.53], abs=1e-4)
    rows = dict(readable(description))
    assert rows["classes"] == "2: cat, dog"
    assert rows["data"] == "pets:train"
    assert rows["training"] == "step 70"
    assert "seed 3" in rows["configuration"]
    assert rows["metrics"] == "mAP 0.5123"


def test_the_papers_normalisation_is_told_apart():
    caffe = completed(METHODS["rfcn"]("resnet-tiny", stride_in_1x1=True), {})["normalisation"]
    assert caffe["std"] == [1, 1, 1]
    assert completed(METHODS["rfcn"]("mobilenet-v2"), {})["normalisation"]["std"] != caffe["std"]


def test_another_normalisation_is_refused(saved):
    rewritten(saved, lambda d: d["normalisation"].update(mean=[0, 0, 0]))
    with pytest.raises(UserError, match=r"pets\.safetensors was trained with the normalisation .*'mean': \[0, 0, 0\]"):
        load(saved, device="cpu")


def test_files_without_the_newer_entries_load(saved):
    def older(description):
        for name in ("input", "normalisation", "versions", "training", "metrics"):
            del description[name]

    assert load(rewritten(saved, older), device="cpu").classes == ("cat", "dog")
    assert [name for name, _ in readable(read_description(saved))] == ["method", "arguments", "classes"]


def test_a_method_of_another_version_is_named(saved):
    rewritten(saved, lambda d: d.update(method="dfg"))
    with pytest.raises(UserError, match=r"unknown method of .*pets\.safetensors 'dfg'; did you mean dff"):
        load(saved, device="cpu")


def test_the_commit_is_the_repositorys():
    folder = Path(keywarp.__file__).parent
    command = ["git", "-C", str(folder), "log", "-9", "--format=%H", "--", "."]
    expected = subprocess.run(command, capture_output=True, text=True).stdout.split()
    if not expected:
        pytest.skip("keywarp does not run from its repository")
    assert completed(METHODS["rfcn"]("resnet-tiny"), {})["versions"]["commit"] in expected
