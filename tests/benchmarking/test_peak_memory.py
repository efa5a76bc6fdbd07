import os
import sys
from functools import partial

import pytest
import torch

from keywarp.benchmarking.peak_memory import peak_of
from keywarp.errors import InterruptedWorkError

MEGA = 2**20


def fill(megabytes):
    torch.ones(megabytes * MEGA, dtype=torch.uint8)
    return torch.device("cpu")


@pytest.mark.skipif(sys.platform == "win32", reason="the system does not tell")
def test_what_the_work_takes_and_nothing_of_the_process_that_asks():
    mine = torch.ones(1500 * MEGA, dtype=torch.uint8)
    assert 700 * MEGA < peak_of("a model", partial(fill, 600)) < len(mine)


def test_a_process_that_dies_is_one_line():
    with pytest.raises(InterruptedWorkError, match="dff l=10: the process died"):
        peak_of("dff l=10", os.abort)
