import platform
import subprocess
import sys

import pytest

from keywarp.cli import main

COUNT = """
import resource, torch
from keywarp.allocation import keep_freed_memory
kept = {keep} and keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(16_000_000)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_blocks_are_not_fetched_anew_from_the_kernel():
    faults = {}
    for keep in (False, True):
        printed = subprocess.run(
            [sys.executable, "-c", COUNT.format(keep=keep)], capture_output=True, text=True, check=True
        ).stdout.split()
        assert printed[0] == str(keep)
        faults[keep] = int(printed[1])
    assert faults[True] < faults[False] / 2


def test_it_is_an_option_of_the_commands(capsys):
    for command in ("detect", "segment", "benchmark"):
        main([command, "--help"])
        assert "--keep-memory" in capsys.readouterr().out
