"""Imports go one way: a module may import those of earlier rows and of its own row."""

import ast
from pathlib import Path

import keywarp

ROOT = Path(keywarp.__file__).parent
ROWS = [
    {"errors", "interruption", "structures", "ops", "files", "allocation"},
    {"transform", "alignment", "scheduling", "interfaces", "plans"},
    {"aggregation", "updating", "losses"},
    {"model"},
    {"networks", "heads", "adapters", "data", "postprocess", "evaluation", "partial_updating", "published"},
    {"predictor", "methods", "loading", "oracle"},
    {
        "listing",
        "benchmark",
        "benchmarking",
        "figures",
        "tradeoff_plot",
        "options",
        "progress",
        "sinks",
        "visualize",
        "insight",
        "outputs",
        "summary",
        "annotate",
        "demo",
        "doctor",
        "explain",
        "evaluate",
        "running",
        "report",
        "compare",
        "tradeoff",
        "training",
    },
    {"cli", "__main__"},
]
# Aligners that are networks load their weights like every network; a partial update runs a network layer by layer.
ALLOWED = {("alignment", "networks"), ("partial_updating", "networks")}


def test_imports_go_one_way():
    rank = {name: row for row, names in enumerate(ROWS) for name in names}
    for path in ROOT.rglob("*.py"):
        top = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if top == "__init__":
            continue
        assert top in rank, f"{path} is not in the table"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("keywarp."):
                other = node.module.split(".")[1]
                assert rank[other] <= rank[top] or (top, other) in ALLOWED, f"{path} imports {node.module}"
