import json

import pytest

from keywarp.cli import main
from keywarp.listing import pair_costs
from keywarp.methods import METHODS
from keywarp.published import PUBLISHED


@pytest.mark.slow
def test_models_as_json(capsys):
    assert main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    fields = {"name", "parameters_mi", "gmac_key", "gmac_non_key", "predicted_speedup", "latency_frames", "published"}
    assert all(set(row) == fields for row in rows)
    by_name = {row["name"]: row for row in rows}
    assert set(METHODS) <= set(by_name)
    # The sizes that 002, Table 1 and Table 3 give; PSLA's without the embeddings of its section 3.5.
    sizes = {
        "rfcn": 59.6,
        "dff": 96.6,
        "fgfa": 100.4,
        "psla-a without embeddings": 62.7,
        "psla-c without embeddings": 63.7,
    }
    for name, size in sizes.items():
        assert by_name[name]["parameters_mi"] == pytest.approx(size, abs=0.3)
    excess = by_name["psla-c"]["parameters_mi"] - by_name["psla-c without embeddings"]["parameters_mi"]
    assert excess == pytest.approx((2 * 1024 * 256 + 256) / 2**20)
    assert by_name["rfcn"]["gmac_non_key"] is None
    dff = by_name["dff"]
    assert dff["predicted_speedup"] == pytest.approx(10 / (1 + 9 * dff["gmac_non_key"] / dff["gmac_key"]), rel=0.01)
    # Deformable layers add their offsets' convolutions; layers moved into the task network stay in the key frame's sum.
    assert by_name["rfcn deformable 3"]["gmac_key"] > by_name["rfcn"]["gmac_key"]
    assert by_name["dff task layers 21"]["gmac_key"] == pytest.approx(dff["gmac_key"])
    latencies = {"dff": 0, "thp-c3": 0, "impression-d": 5, "psla-c": 4, "fgfa": 10, "iff-e": 10}
    assert {name: by_name[name]["latency_frames"] for name in latencies} == latencies
    assert by_name["psla-c"]["published"]["mean_ap"] == 77.1


def test_iff_modules_cost_little_for_each_pair():
    costs = pair_costs()
    assert costs["FlowNet"][0] + costs["FlowNet"][1] == pytest.approx(12.9, abs=0.5)
    assert costs["IFF basic"][1] == 0
    assert costs["IFF advanced"][1] < 0.1 * costs["FlowNet"][1]


def test_every_method_has_its_published_row():
    assert set(PUBLISHED) == set(METHODS)
