"""What the study compares: the rows of the papers' tables, the claims made of them, and the curves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """A row of the tables. training: whose weights run. method, arguments: in place of those. against: the row that it
    is compared with; published: that difference in the paper, in points of mAP, where it has one; claim: what it says
    otherwise. source: where."""

    name: str
    training: str
    against: str = ""
    published: float | None = None
    source: str = ""
    claim: str = ""
    method: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    oracle: bool = False

    @property
    def folder(self) -> str:
        """Its results' folder."""
        return re.sub(r"\W+", "-", self.name.lower())


def position(k: int, published: float) -> Row:
    """Impression Network with another key frame of its ten."""
    of = "impression-d"
    return Row(f"Impression d, key {k}", of, "Impression d", published, "003, Table 2", arguments={"key_position": k})


FRAME = "per frame"
FRAME_LONG, PSLA_LONG = f"{FRAME}, four times the steps", "PSLA c, four times the steps"
ROWS: dict[str, tuple[Row, ...]] = {
    "Deep Feature Flow (004)": (
        Row(FRAME, "frame", source="the per-frame network, trained on as long"),
        Row("SFF, DIS", "frame", FRAME, -4.2, "004, Table 4, SFF-fast", method="sff", arguments={"flow": "dis"}),
        Row("SFF, codec motion", "frame", FRAME, None, "not in a paper", method="sff", arguments={"flow": "codec"}),
        Row("DFF", "dff", FRAME, -0.8, "004, Table 4"),
        Row("DFF fix N", "dff-fix-n", "DFF", -0.8, "004, Table 4"),
        Row("DFF fix F", "dff-fix-f", "DFF", -4.3, "004, Table 4"),
        Row("DFF separate", "dff-separate", "DFF", -5.7, "004, Table 4"),
        Row("DFF without scale field", "dff-without-scale", "DFF", None, "004, 5.2", "less than 1 lower"),
    ),
    "Towards High Performance (001)": (
        Row("FGFA", "fgfa", FRAME, 2.9, "001, 5.1, ± 10 frames"),
        Row("THP c1", "thp", "DFF", None, "001, 5.1, at equal speed", "almost 1 higher", method="thp-c1"),
        Row("THP c2", "thp", "DFF", None, "001, 5.1, at equal speed", "almost 2 higher", method="thp-c2"),
        Row("THP c3", "thp", "DFF", None, "001, 5.1, at equal speed", "nearly 2 higher"),
        Row("THP oracle", "thp", "THP c3", None, "001, 3.3 and Table 2", "3.1 higher at equal speed", oracle=True),
    ),
    "Impression Network (003)": (
        Row("Impression b", "impression-b", FRAME, -0.6, "003, Table 1"),
        Row("Impression c", "impression-c", FRAME, 1.0, "003, Table 1"),
        Row("Impression d", "impression-d", FRAME, 1.3, "003, Table 1"),
        Row("Impression e", "impression-e", "Impression d", -5.2, "003, Table 1"),
        Row("Impression d, g = 0", "impression-d", "Impression d", None, "003, Figure 7", "lower", None, {"gate": 0.0}),
        Row(
            "Impression d, g = 0.5", "impression-d", "Impression d", None, "003, Figure 7", "lower", None, {"gate": 0.5}
        ),
        *(position(k, p) for k, p in ((0, -1.6), (1, -1.1), (2, -0.6), (3, -0.3), (4, 0.0))),
    ),
    "PSLA (002)": (
        Row("PSLA a", "psla-a", "DFF", None, "002, Table 4", "0.7 to 1.0 higher at l = 15 to 35"),
        Row("PSLA b", "psla-b", "PSLA a", 1.4, "002, Table 5"),
        Row("PSLA c", "psla-c", "PSLA b", 1.3, "002, Table 5"),
        Row(FRAME_LONG, "frame-long", FRAME, source="trained as long as the next row"),
        Row(PSLA_LONG, "psla-c-long", FRAME_LONG, 3.2, "002, Table 1"),
        Row("Nonlocal S", "psla-nonlocal-s", "PSLA a", -2.3, "002, Table 3"),
        Row("MatchTrans S", "psla-matchtrans-s", "PSLA a", -1.9, "002, Table 3"),
        Row("DensePSLA S", "psla-dense-s", "PSLA a", -0.8, "002, Table 3"),
        Row("Nonlocal F", "psla-nonlocal-f", "PSLA c", -3.0, "002, Table 5"),
        Row("MatchTrans F", "psla-matchtrans-f", "PSLA c", -1.9, "002, Table 5"),
        Row("DensePSLA F", "psla-dense-f", "PSLA c", -1.4, "002, Table 5"),
        Row("PSLA a, d = 2", "psla-a-d2", "PSLA a", -0.8, "002, Table 3"),
        Row("PSLA a, d = 3", "psla-a-d3", "PSLA a", -0.1, "002, Table 3"),
        Row("PSLA a, d = 5", "psla-a-d5", "PSLA a", -0.6, "002, Table 3"),
    ),
    "IFF-Net (000)": (
        Row("OptFlow-A", "optflow-a", FRAME, 0.3, "000, Table 1"),
        Row("OptFlow-B", "optflow-b", FRAME, 1.3, "000, Table 1"),
        Row("IFF-Net-A", "iff-a", FRAME, 1.9, "000, Table 2"),
        Row("IFF-Net-B", "iff-b", "IFF-Net-A", 0.4, "000, Table 2"),
        Row("IFF-Net-C", "iff-c", "IFF-Net-B", 0.7, "000, Table 2"),
    ),
}
"""The papers' rows. IFF-Net-D and -E are IFF-Net-C after Seq-NMS and Seq-NMS+, which every row has as columns."""


@dataclass(frozen=True)
class Claim:
    """A difference that a paper claims: of a row from another one, or of a row after two post-processings. published:
    what the paper says, its sign first."""

    row: str
    other: str
    published: str
    source: str
    measure: str = "mAP"
    linking: tuple[str, str] = ("none", "none")

    @property
    def title(self) -> str:
        """What is compared with what."""
        own, other = (f"{name} with {way}" if way != "none" else name for name, way in self.sides)
        return f"{own} − {other}" + (", fast objects" if self.measure == FAST else "")

    @property
    def sides(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """Row and post-processing of both."""
        return (self.row, self.linking[0]), (self.other, self.linking[1])


FAST = "mAP fast"
SEQ_NMS, SEQ_NMS_PLUS = ("seq-nms", "none"), ("seq-nms+", "seq-nms")
CLAIMS = (
    Claim("FGFA", FRAME, "+2.9", "001, 5.1, ± 10 frames"),
    Claim("FGFA", FRAME, "+6, about", "001, 2.1", FAST),
    Claim("IFF-Net-B", FRAME, "+2.3", "000, Table 2"),
    Claim("IFF-Net-B", FRAME, "+3.4", "000, Table 2", FAST),
    Claim("IFF-Net-C", FRAME, "+3.0", "000, Table 2"),
    Claim("IFF-Net-C", FRAME, "+6.5", "000, Table 2", FAST),
    Claim("PSLA c", FRAME, "+3.2", "002, Table 1"),
    Claim("PSLA c", FRAME, "+, not published", "", FAST),
    Claim(PSLA_LONG, FRAME_LONG, "+3.2", "002, Table 1"),
    Claim(PSLA_LONG, FRAME_LONG, "+, not published", "", FAST),
    Claim("DFF", FRAME, "-0.8", "004, Table 4"),
    Claim("DFF", "DFF separate", "+5.7", "004, Table 4"),
    Claim("Impression d", FRAME, "+1.3", "003, Table 1"),
    Claim("Impression d", "Impression b", "+1.9", "003, Table 1"),
    Claim("THP c2", "THP c1", "+0.8, both at 3 times per frame's speed", "001, 5.1"),
    Claim("THP c3", "THP c2", "+0.5 to 1 at high speed", "001, 5.1"),
    Claim("IFF-Net-B", "IFF-Net-A", "+0.4", "000, Table 2"),
    Claim("IFF-Net-B", "OptFlow-A", "+2.0", "000, Table 1"),
    Claim("IFF-Net-B", "OptFlow-B", "+1.0", "000, Table 1"),
    Claim(FRAME, FRAME, "+, not published", "", linking=SEQ_NMS),
    Claim(FRAME, FRAME, "+, not published", "", linking=SEQ_NMS_PLUS),
    Claim("IFF-Net-C", "IFF-Net-C", "+1.8", "000, Table 2", linking=SEQ_NMS),
    Claim("IFF-Net-C", "IFF-Net-C", "+0.8", "000, Table 2", linking=SEQ_NMS_PLUS),
)
"""The papers' main claims, as differences."""

CURVES = {
    "impression": (FRAME, "DFF", "Impression d"),
    "thp": (FRAME, "DFF", "FGFA", "THP c1", "THP c2", "THP c3"),
}
"""Accuracy against speed of these rows, as in 003, Figure 8, and 001, Figure 3."""

LINKINGS = ("none", "seq-nms", "seq-nms+")
"""Post-processings that every row is measured with."""
