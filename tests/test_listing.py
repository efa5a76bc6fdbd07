import json

import pytest

from keywarp.cli import main
from keywarp.listing import speedup


@pytest.mark.parametrize(("r", "interval", "expected"), [(0.1, 10, 10 / 1.9), (1.0, 10, 1.0), (0.0, 10, 10.0)])
def test_speedup_by_hand(r, interval, expected):
    assert speedup(r, interval) == pytest.approx(expected)


@pytest.mark.slow
def test_models_as_json(capsys):
    assert main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    fields = {"name", "parameters_mi", "gmac_key", "gmac_non_key", "predicted_speedup", "latency_frames"}
    assert all(set(row) == fields for row in rows)
    by_name = {row["name"]: row for row in rows}
    assert by_name["rfcn resnet-101"]["parameters_mi"] == pytest.approx(59.6, abs=0.3)
    assert by_name["rfcn resnet-101"]["gmac_non_key"] is None
    dff = by_name["dff resnet-101 flownet-s"]
    assert dff["parameters_mi"] == pytest.approx(96.6, abs=0.3)
    assert dff["predicted_speedup"] == pytest.approx(10 / (1 + 9 * dff["gmac_non_key"] / dff["gmac_key"]))
    # Deformable layers add their offsets' convolutions; layers moved into the task network stay in the key frame's sum.
    assert by_name["rfcn resnet-101 deformable 3"]["gmac_key"] > by_name["rfcn resnet-101"]["gmac_key"]
    assert by_name["dff resnet-101 flownet-s task layers 21"]["gmac_key"] == pytest.approx(dff["gmac_key"])
