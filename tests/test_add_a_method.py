"""docs/add-a-method.md runs as it stands."""

import re
from pathlib import Path

import torch

from keywarp.methods import METHODS, preset

PAGE = Path(__file__).parents[1] / "docs" / "add-a-method.md"


def test_the_page_adds_a_method_that_trains_and_runs():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks[0].splitlines()) < 40
    torch.manual_seed(0)
    names: dict = {}
    try:
        for block in blocks:
            exec(block, names)
        assert "iff-recursive" in METHODS
        assert preset("iff-recursive") == {}  # `train` takes it too
    finally:
        METHODS.pop("iff-recursive", None)
    assert [r.index for r in names["results"]] == [0, 1]
    assert all(r.is_key for r in names["results"])
    assert "transformation_residual" in names["losses"]
    without = [n for n, p in names["model"].named_parameters() if p.grad is None]
    assert without == []
    assert names["model"].description["method"] == "iff-recursive"
