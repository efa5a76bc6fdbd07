"""What the study measured, as `results.json`, and the tables made of it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from keywarp.doctor import machine
from keywarp.errors import UserError
from keywarp.files import laid_out_as, read_json
from keywarp.networks.weight_files import read_description
from study_rows import CLAIMS, FAST, LINKINGS, ROWS, Row
from study_work import Study

Measured = Mapping[tuple[int, str], Mapping[str, Mapping[str, float]]]
"""Of a row, by run and seed: by post-processing, by measure, in percent."""

BEYOND = (
    "Beyond the spread: mean ± standard deviation leaves out zero. Chance alone does that in 39 % of cases with two "
    "seeds, in 23 % with three (Student's t)."
)
CLAIM_COLUMNS = ("", "seeds", "difference", "the paper's", "source", "its sign")
COLUMNS = (
    *("", "seeds", "mAP", "slow", "medium", "fast", "Seq-NMS", "Seq-NMS+", "frames/s", "Mi parameters"),
    *("against", "difference", "on fast", "the paper's", "source"),
)


def measures(study: Study, row: Row, seed: int) -> dict[str, dict[str, float]] | None:
    """Measures in percent by post-processing; None where they are not there yet."""
    file = study.results(row, seed) / "evaluation.json"
    if not file.exists():
        return None
    document = json.loads(file.read_text())
    return {each["name"]: _percent(each["measures"]) for each in document["rows"]}


def _percent(values: Mapping[str, float | None]) -> dict[str, float]:
    known = {name: value for name, value in values.items() if name.startswith("mAP") and value is not None}
    return {name: round(100 * value, 3) for name, value in known.items()}


def spread(values: Sequence[float], sign: bool = False) -> str:
    """Mean ± standard deviation; empty of nothing."""
    if not values:
        return ""
    shown = f"{statistics.mean(values):+.1f}" if sign else f"{statistics.mean(values):.1f}"
    return shown + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def work_done(study: Study) -> dict[str, dict[str, float]]:
    """What was done by now, by keywarp command: how many pieces, and the hours that they add up to; of a piece that was
    interrupted, those since it last went on."""
    found: dict[str, list[float]] = {}
    for file in sorted(study.done.glob("*.json")):
        done = json.loads(file.read_text())
        words = done["command"]
        name = " ".join(words[: 2 if words[0] == "data" else 1])
        found.setdefault(name, []).append(done["seconds"])
    return {name: {"pieces": len(each), "hours": round(sum(each) / 3600, 2)} for name, each in found.items()}


def results(study: Study) -> dict[str, Any]:
    """All that is measured by now: measures in percent by row, seed and post-processing; the speeds; whose weights, and
    a digest of how each row is trained; how long all of it took."""
    seeds, budget = study.seeds, asdict(study.budget)
    rows = {row.name: row for group in ROWS.values() for row in group}
    measured = {
        name: {str(seed): found for seed in seeds if (found := measures(study, row, seed))}
        for name, row in rows.items()
    }
    measured = {name: found for name, found in measured.items() if found}
    trainings = {
        (name, int(seed))
        for row, found in measured.items()
        for name in ("detector", "settled", rows[row].training)
        for seed in found
    }
    files = (study.weights(*each) for each in trainings)
    commits = {read_description(file)["versions"].get("commit", "unknown") for file in files if file.exists()}
    speed = study.folder / "speed.json"
    return {
        "budget": {name: value for name, value in budget.items() if name != "seeds"},
        "backbone": study.backbone_digest,
        "commits": sorted(commits),
        "machine": machine(torch.device(study.device)),
        "rows": measured,
        "protocols": {name: study.protocol(rows[name]) for name in measured},
        "speed": json.loads(speed.read_text()) if speed.exists() else {},
        "work": work_done(study),
    }


def tables(runs: Sequence[Mapping[str, Any]]) -> str:
    """Of claims and rows, as Markdown, of the `results` of one run or of several: then each run's seeds are further
    seeds.

    Differences are of rows of the same run and seed. Speeds are of the first run that has them.
    """
    known = {
        row.name: {(n, seed): own for n, run in enumerate(runs) for seed, own in run["rows"].get(row.name, {}).items()}
        for group in ROWS.values()
        for row in group
    }
    speed: Mapping[str, Any] = next((run["speed"] for run in runs if run["speed"]), {})
    milliseconds, parameters = (speed.get(name, {}) for name in ("milliseconds", "parameters"))
    lines = claims(known)
    for title, group in ROWS.items():
        measured = [row for row in group if known[row.name]]
        lines += [f"### {title}", ""]
        if measured:
            lines += [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
        for row in measured:
            own = known[row.name]

            def column(linking: str, name: str, own: Measured = own) -> str:
                return spread([found[linking][name] for found in own.values() if name in found.get(linking, {})]) or "–"

            other = known.get(row.against, {})

            cells = [
                row.name,
                str(len(own)),
                *(column("none", name) for name in ("mAP", "mAP slow", "mAP medium", "mAP fast")),
                *(column(linking, "mAP") for linking in LINKINGS[1:]),
                f"{1000 / milliseconds[row.name]:.1f}" if row.name in milliseconds else "–",
                f"{parameters[row.name]:.2f}" if row.name in parameters else "–",
                row.against or "–",
                *(spread(differences(own, other, name), sign=True) or "–" for name in ("mAP", FAST)),
                f"{row.published:+.1f}" if row.published is not None else row.claim or "–",
                row.source,
            ]
            lines.append(f"| {' | '.join(cells)} |")
        if measured:
            lines.append("")
        if len(measured) < len(group):
            missing = (row.name for row in group if row not in measured)
            lines += [f"Not measured: {'; '.join(missing)}.", ""]
    for run in runs:
        count = max((len(found) for found in run["rows"].values()), default=0)
        lines.append(f"Seeds: {count}; {run['machine']}; commits {', '.join(each[:7] for each in run['commits'])}.")
        if work := run.get("work"):  # absent of runs before it was kept
            parts = (f"{name} {each['hours']:.1f} ({each['pieces']})" for name, each in work.items())
            lines.append(
                f"Hours (pieces of work): {', '.join(parts)}; {sum(w['hours'] for w in work.values()):.1f} in all."
            )
    if speed:
        lines.append(f"frames/s: {speed['clock']}; {speed['machine']}.")
    return "\n".join([*lines, ""])


def claims(known: Mapping[str, Measured]) -> list[str]:
    """The lines of a table of the papers' main claims, as far as their rows are measured."""
    lines = ["### The papers' main claims", ""]
    missing = []
    for claim in CLAIMS:
        found = differences(known[claim.row], known[claim.other], claim.measure, claim.linking)
        if not found:
            missing.append(claim.title)
            continue
        if len(lines) == 2:
            lines += [f"| {' | '.join(CLAIM_COLUMNS)} |", "|---" * len(CLAIM_COLUMNS) + "|"]
        cells = (claim.title, str(len(found)), spread(found, sign=True), claim.published, claim.source or "–")
        lines.append(f"| {' | '.join((*cells, verdict(found, claim.published)))} |")
    if len(lines) > 2:
        lines += ["", BEYOND]
    return [*lines, "", *([f"Not measured: {'; '.join(missing)}.", ""] if missing else [])]


def read_results(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Of several runs' `results.json`, all different and of one budget, backbone and protocol. Raises UserError."""
    runs: list[dict[str, Any]] = []
    for file in files:
        run = read_json(file)
        with laid_out_as("the results.json of a study", file):
            tables([run])
            for other, of_other in zip(runs, files, strict=False):
                if run["rows"] and run["rows"] == other["rows"]:
                    raise UserError(f"{file} and {of_other} hold the same results; give each run once")
                for name in ("budget", "backbone"):
                    if run[name] != other[name]:
                        raise UserError(f"--tables takes runs of one {name}; {file} and {of_other} have two")
                for name, protocol in run["protocols"].items():
                    if protocol != other["protocols"].get(name, protocol):
                        raise UserError(f"--tables takes runs of one protocol; in {file} {name} was trained otherwise")
        runs.append(run)
    return runs


def differences(
    own: Measured, other: Measured, measure: str, linking: tuple[str, str] = ("none", "none")
) -> list[float]:
    """Of a row from another one, each after its post-processing, by run and seed where both are measured."""
    pairs = [(own[run].get(linking[0], {}), other[run].get(linking[1], {})) for run in own if run in other]
    return [a[measure] - b[measure] for a, b in pairs if measure in a and measure in b]


def verdict(found: Sequence[float], published: str) -> str:
    """Whether the differences' sign is the published one, and whether mean ± standard deviation leaves out zero."""
    mean = statistics.mean(found)
    if mean == 0:
        return "no difference"
    same = "yes" if (mean < 0) == published.startswith("-") else "no"
    if len(found) == 1:
        return f"{same}, one seed"
    return f"{same}, {'beyond' if abs(mean) > statistics.stdev(found) else 'within'} the spread"
