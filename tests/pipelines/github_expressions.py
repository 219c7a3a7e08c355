"""Evaluates the expressions of a GitHub Actions workflow that this project's workflows use."""

import re
from collections.abc import Mapping
from typing import Any

Values = Mapping[str, Any]


def expand_expressions(template: Any, contexts: Values) -> str:
    """The text with its expressions evaluated. Raises ValueError for an unsupported expression."""
    if isinstance(template, bool):
        return str(template).lower()
    return re.sub(r"\$\{\{(.*?)\}\}", lambda match: _evaluate(match[1].strip(), contexts), str(template))


def _evaluate(expression: str, contexts: Values) -> str:
    """The value of an expression without `${{ }}`: `a || b`, `a == b`, `a != b`, or a member such as
    `steps.deploy.outputs.ready`. Raises ValueError for anything else."""
    if " || " in expression:
        values = (_evaluate(part.strip(), contexts) for part in expression.split(" || "))
        return next((value for value in values if value), "")
    for operator in (" == ", " != "):
        if operator in expression:
            left, right = (_evaluate(part.strip(), contexts) for part in expression.split(operator))
            return str((left == right) is (operator == " == ")).lower()
    if not re.fullmatch(r"[a-z]+(\.[A-Za-z_][\w-]*)+", expression):
        raise ValueError(f"unsupported expression: {expression}")
    context, *path = expression.split(".")
    value: Any = contexts.get(context)
    if value is None:
        raise ValueError(f"{context} is not known here: {expression}")
    for depth, name in enumerate(path):
        if name not in value:
            # On GitHub unknown values are empty. Here only optional values may be unknown.
            if context == "env" or (context in {"steps", "needs"} and depth == 2):
                return ""
            raise ValueError(f"nothing has set {expression}")
        value = value[name]
    return str(value)
