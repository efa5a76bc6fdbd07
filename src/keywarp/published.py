"""What the papers report for each method: ImageNet VID validation, ResNet-101 unless said otherwise.

Figures of the papers, measured on their machines; none is ours. Motion: mAP of slow, medium and fast objects.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A row of a paper's table.

    title: the paper's own name. source: paper and table. mean_ap: in percent. speed: frames/s and GPU. postprocess:
    what the row applies to the boxes. note: what else sets it apart.
    """

    title: str
    source: str
    mean_ap: float | None = None
    speed: str = ""
    postprocess: str = ""
    note: str = ""


_IMPRESSION = "003, Table 1"
_PSLA = "002, Table 5"
_IFF = "000, Table 2"
_DCN = "000, Table 4"

PUBLISHED: dict[str, Published] = {
    "rfcn": Published("Frame", "004, Table 4", 73.9, "4.05 (K40)"),
    "dff": Published("DFF", "004, Table 4", 73.1, "20.25 (K40)"),
    "dff-half": Published("DFF, FlowNet Half", "004, Table 2", note="accuracy only as a curve"),
    "dff-inception": Published("DFF, FlowNet Inception", "004, Figure 3", 69.5, "41.26 (K40)"),
    "dff-fix-n": Published("DFF fix N", "004, Table 4", 72.3, "20.25 (K40)", note="only the flow network trains"),
    "dff-fix-f": Published("DFF fix F", "004, Table 4", 68.8, "20.25 (K40)", note="the flow network does not train"),
    "dff-separate": Published("DFF separate", "004, Table 4", 67.4, "20.25 (K40)", note="both trained by themselves"),
    "sff": Published("SFF-slow", "004, Table 4", 70.7, "0.26 (K40)", note="with SIFT-Flow; SFF-fast 69.7 at 3.04"),
    "fgfa": Published("FGFA", "002, Table 1", 76.3, "1.36 (K40)", note="its authors' README: 77.1"),
    "thp-c1": Published("our method (c1)", "001, section 5.1", note="1 mAP above the frame at 3×; a curve"),
    "thp-c2": Published("our method (c2)", "001, section 5.1", note="1.8 mAP above the frame at 3×; a curve"),
    "thp-c3": Published(
        "our method (c3)", "001, Table 2", 78.6, "13.0 (Titan X), 8.6 (K40)", note="deformable; 77.8 at 22.9 and 15.2"
    ),
    "impression-a": Published("method (a)", _IMPRESSION, 74.2, "6.4 (GTX 1060)"),
    "impression-b": Published("method (b)", _IMPRESSION, 73.6, "20.8 (GTX 1060)"),
    "impression-c": Published("method (c)", _IMPRESSION, 75.2, "20 (GTX 1060)"),
    "impression-d": Published("method (d)", _IMPRESSION, 75.5, "20 (GTX 1060)"),
    "impression-e": Published("method (e)", _IMPRESSION, 70.3, "20 (GTX 1060)", note="not end to end"),
    "psla-a": Published("our method (a)", _PSLA, 74.4, "42.0 (Titan V)"),
    "psla-b": Published("our method (b)", _PSLA, 75.8, "31.2 (Titan V)"),
    "psla-c": Published("our method (c)", _PSLA, 77.1, "30.8 (Titan V)"),
    "psla-nonlocal-s": Published("Nonlocal S", _PSLA, 72.1, "40.0 (Titan V)"),
    "psla-nonlocal-f": Published("Nonlocal F", _PSLA, 74.1, "28.3 (Titan V)"),
    "psla-matchtrans-s": Published("MatchTrans S", _PSLA, 72.5, "40.6 (Titan V)"),
    "psla-matchtrans-f": Published("MatchTrans F", _PSLA, 75.2, "30.1 (Titan V)"),
    "psla-dense-s": Published("DensePSLA S", _PSLA, 73.6, "40.6 (Titan V)"),
    "psla-dense-f": Published("DensePSLA F", _PSLA, 75.7, "30.1 (Titan V)"),
    "iff-a": Published("IFF-Net-A", _IFF, 76.0),
    "iff-b": Published("IFF-Net-B", _IFF, 76.4),
    "iff-c": Published("IFF-Net-C", _IFF, 77.1),
    "iff-d": Published("IFF-Net-D", _IFF, 78.9, postprocess="Seq-NMS"),
    "iff-e": Published("IFF-Net-E", _IFF, 79.7, postprocess="Seq-NMS+"),
    "iff-f": Published("IFF-Net-F", _DCN, 80.5, postprocess="Seq-NMS+"),
    "iff-g": Published("IFF-Net-G", _DCN, 81.2, postprocess="Seq-NMS+"),
    "iff-h": Published("IFF-Net-H", _DCN, 82.1, postprocess="Seq-NMS+"),
    "optflow-a": Published("OptFlow-A", "000, Table 1", 74.4, note="the flow network does not train"),
    "optflow-b": Published("OptFlow-B", "000, Table 1", 75.4),
}
