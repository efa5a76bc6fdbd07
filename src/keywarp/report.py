"""The report of an evaluation: precision-recall curves, the worst frames, and one HTML page that holds all of it."""

from __future__ import annotations

import base64
import html
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from keywarp.data.datasets import UnreadableFrameError, VideoDataset
from keywarp.evaluation.measures import RECALLS
from keywarp.evaluation.worst import Worst
from keywarp.figures import png
from keywarp.files import write_atomically
from keywarp.structures import FrameResult
from keywarp.visualize import draw, draw_truth

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; } th, td { padding: .25em .7em; border-bottom: 1px solid #ddd; }
td { text-align: right; font-variant-numeric: tabular-nums; } td:first-child, th:first-child { text-align: left; }
img { max-width: 100%; } figure { display: inline-block; margin: .4em; width: 31%; vertical-align: top; }
figcaption { font-size: 13px; color: #555; } details { margin: 1em 0; } code { background: #f3f3f3; }
"""


def draw_worst(worst: Sequence[Worst], dataset: VideoDataset, folder: Path) -> list[dict[str, str]]:
    """Draw these frames as JPEG files, objects in white and detections in colour; each one's file and caption."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for number, each in enumerate(worst):
        video = dataset.videos[each.video]
        try:
            (image,) = video.frames.read([each.frame])
        except UnreadableFrameError:
            continue
        truth = video.annotation(each.frame)
        (found,) = each.detections.by_frame(each.frame + 1)[-1:]
        result = FrameResult(each.frame, 0.0, False, found, classes=dataset.classes)
        drawn = draw(draw_truth(image, truth.boxes), result)
        name = f"{number:02d}.jpg"
        Image.fromarray(drawn).save(folder / name, quality=88)
        caption = f"{video.name}, frame {each.frame}: {each.missed} missed, {each.wrong} wrong"
        pictures.append({"file": name, "caption": caption})
    return pictures


def write_report(folder: Path) -> None:
    """Make `curves.png` and `report.html` of the evaluation in this folder."""
    document = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    rows = document["rows"]
    images = {}
    if any(row["curves"] for row in rows):
        images["Precision and recall"] = curves(rows)
        write_atomically(folder / "curves.png", images["Precision and recall"])
    pictures = [
        (picture["caption"], (folder / "worst" / picture["file"]).read_bytes()) for picture in document.get("worst", ())
    ]
    title = f"keywarp: {document['setting']['dataset']}"
    write_atomically(folder / "report.html", page(title, document["setting"], rows, images, pictures))


def curves(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A PNG: precision against recall, the mean over the classes and each class by itself, a line a row."""
    from matplotlib.figure import Figure

    classes = list(dict.fromkeys(label for row in rows for label in row["curves"]))
    columns = 6
    lines = math.ceil((len(classes) + 4) / columns) if classes else 1
    figure = Figure(figsize=(2.1 * columns, 2.0 * max(lines, 2)), layout="constrained")
    grid = figure.add_gridspec(max(lines, 2), columns)
    overall = figure.add_subplot(grid[:2, :2])
    for row in rows:
        if row["curves"]:
            overall.plot(RECALLS, np.mean(list(row["curves"].values()), axis=0), label=row["name"])
    overall.set(title="mean over the classes", xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    overall.legend(loc="lower left", fontsize=8)
    cells = [(r, c) for r in range(max(lines, 2)) for c in range(columns) if r > 1 or c > 1]
    for label, cell in zip(classes, cells, strict=False):
        axes = figure.add_subplot(grid[cell])
        for row in rows:
            if label in row["curves"]:
                axes.plot(RECALLS, row["curves"][label], linewidth=1)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xticks=(), yticks=())
        axes.set_title(label, fontsize=8)
    return png(figure)


def page(
    title: str,
    setting: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    images: Mapping[str, bytes],
    pictures: Sequence[tuple[str, bytes]] = (),
) -> str:
    """The HTML page, with every picture inside."""
    body = [f"<h1>{html.escape(title)}</h1>", measures_table(rows)]
    for name, image in images.items():
        body += [f"<h2>{html.escape(name)}</h2>", f'<img alt="{html.escape(name)}" src="{_inline(image, "png")}">']
    if pictures:
        body.append("<h2>Worst frames</h2><p>White: what is there. Coloured: what was found. One frame a video.</p>")
        body += [
            f'<figure><img src="{_inline(image, "jpeg")}"><figcaption>{html.escape(caption)}</figcaption></figure>'
            for caption, image in pictures
        ]
    body += ["<h2>By class</h2>", by_class_table(rows), "<h2>Setting</h2>"]
    body.append(f"<pre>{html.escape(json.dumps(setting, indent=1, ensure_ascii=False))}</pre>")
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f"<!doctype html><html><head>{head}</head><body>{''.join(body)}</body></html>\n"


def measures_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """An HTML table: a line a measure, a column a row."""
    names = list(dict.fromkeys(name for row in rows for name in row["measures"]))
    lines = [[name, *(shown(name, row["measures"].get(name)) for row in rows)] for name in names]
    return _table(["", *(row["name"] for row in rows)], lines)


def by_class_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """An HTML table: a line a class, and of each row its ranges of motion."""
    classes = list(dict.fromkeys(label for row in rows for label in row["by_class"]))
    ranges = list(dict.fromkeys(r for row in rows for values in row["by_class"].values() for r in values))
    head = ["", *(f"{row['name']} {r}" if len(rows) > 1 else r for row in rows for r in ranges)]
    lines = [
        [label, *(shown("mAP", row["by_class"].get(label, {}).get(r)) for row in rows for r in ranges)]
        for label in classes
    ]
    return _table(head, lines)


def shown(name: str, value: float | None) -> str:
    """A measure as text: average precisions in percent, as the field prints them."""
    if value is None or math.isnan(value):
        return "–"
    if name.startswith(("mAP", "COCO", "mIoU", "pixel")):
        return f"{100 * value:.1f}"
    return f"{value:.3f}"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th>{html.escape(each)}</th>" for each in head)
    rows = "".join(f"<tr>{''.join(f'<td>{html.escape(each)}</td>' for each in line)}</tr>" for line in lines)
    return f"<table><tr>{cells}</tr>{rows}</table>"


def _inline(image: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
