"""The scripts in recipes/ as modules, which no package holds."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

RECIPES = Path(__file__).parents[1] / "recipes"


def recipe_module(name: str) -> ModuleType:
    """recipes/NAME.py, imported as Python finds it when a script there runs."""
    if str(RECIPES) not in sys.path:
        sys.path.insert(0, str(RECIPES))
    return importlib.import_module(name)
