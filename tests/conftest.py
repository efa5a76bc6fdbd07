from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).parents[1] / "../shared"


@pytest.fixture(autouse=True)
def _deterministic():
    torch.manual_seed(0)
    torch.set_num_threads(1)  # on a busy machine, waiting for a second one costs more than it brings


@pytest.fixture
def shared() -> Path:
    """The folder of real clips, weights and reference outputs beside the checkout, where there is one."""
    if not SHARED.exists():
        pytest.skip("the folder ../shared with clips, weights and reference outputs is absent")
    return SHARED
