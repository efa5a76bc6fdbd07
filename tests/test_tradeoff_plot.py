import re
from html.parser import HTMLParser

import pytest

from keywarp.errors import UserError
from keywarp.tradeoff_plot import ORACLE, PER_FRAME, Point, by_group, drawn, plot

POINTS = [
    Point("l=10", "dff <flownet-s>", 10, 415.0, 0.62),
    Point("l=2", "dff <flownet-s>", 2, 1340.0, 0.73, "two"),
    Point("", "rfcn", 1, 2275.0, 0.74, PER_FRAME),
    Point("20 %", "dff <flownet-s>", 5, 620.0, 0.72, ORACLE),
    Point("l=5", "dff <flownet-s>", 5, 660.0, 0.69),
]


def test_groups_keep_their_order_and_go_by_parameter():
    groups = by_group(POINTS)
    assert list(groups) == ["dff <flownet-s>", "rfcn"]
    assert [p.parameter for p in groups["dff <flownet-s>"]] == [2, 5, 5, 10]


def test_one_line_a_group_and_marks_for_baseline_and_oracle():
    (axes,) = drawn(POINTS, "title", "mAP").axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines["dff <flownet-s>"].get_xdata()) == [1340, 660, 415]  # without the oracle
    assert list(lines["dff <flownet-s>"].get_ydata()) == [73, 69, 62]
    assert list(lines["dff <flownet-s>, oracle"].get_xdata()) == [620]
    assert list(lines["rfcn, per frame"].get_ydata()) == [74]
    assert "rfcn" not in lines
    assert len(axes.lines) == 3 + 2  # and the baseline's speed and accuracy
    assert {t.get_text() for t in axes.texts} == {"l=2", "l=5", "l=10", "20 %"}  # the baseline is in the legend


@pytest.mark.parametrize(("name", "begin"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")])
def test_pictures(name, begin, tmp_path):
    plot(POINTS, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begin)
    assert [p.name for p in tmp_path.iterdir()] == [name]


class Reader(HTMLParser):
    """Cells by row, and what is opened and closed."""

    def __init__(self):
        super().__init__()
        self.rows, self.depth, self.outside = [], 0, []

    def handle_starttag(self, tag, attributes):
        self.depth += tag in ("td", "th")
        if tag == "tr":
            self.rows.append([])
        if self.depth:
            self.rows[-1].append("")
        self.outside += [v for k, v in attributes if k in ("src", "href") and v]

    def handle_endtag(self, tag):
        self.depth -= tag in ("td", "th")

    def handle_data(self, text):
        if self.depth:
            self.rows[-1][-1] += text


def test_a_page_that_needs_nothing_else(tmp_path):
    plot(POINTS, tmp_path / "a.html", title="shapes & more", measure="AP50")
    text = (tmp_path / "a.html").read_text()
    assert text.startswith("<!doctype html>")
    assert text.count("<svg") == text.count("</svg>") == 1
    assert "<?xml" not in text
    assert "<title>shapes &amp; more</title>" in text
    reader = Reader()
    reader.feed(text)
    assert reader.rows[0] == ["method", "setting", "ms a frame", "frames/s", "AP50 (%)", "note"]
    assert reader.rows[1] == ["dff <flownet-s>", "l=2", "1340.0", "0.75", "73.0", "two"]
    assert sorted(map(tuple, reader.rows[1:])) == sorted(
        (p.group, p.label, f"{p.speed_ms:.1f}", f"{1000 / p.speed_ms:.2f}", f"{100 * p.accuracy:.1f}", p.note)
        for p in POINTS
    )
    assert all(address.startswith("#") for address in reader.outside)
    assert re.findall(r'data-value="([^"]*)"', text)[:3] == ["1340.0", repr(1000 / 1340), "73.0"]


@pytest.mark.parametrize(
    ("points", "name", "said"),
    [
        ([], "a.png", "no point"),
        (POINTS, "a.gif", "must end in .png, .svg, .pdf, .html"),
        (POINTS, "b/a.png", "folder"),
    ],
)
def test_mistakes(points, name, said, tmp_path):
    with pytest.raises(UserError, match=said):
        plot(points, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("speed", "accuracy"), [(0, 0.5), (float("nan"), 0.5), (1, 1.5), (1, float("nan"))])
def test_a_point_that_cannot_be_drawn(speed, accuracy):
    with pytest.raises(ValueError, match=r"speed_ms|accuracy"):
        Point("l=2", "dff", 2, speed, accuracy)
