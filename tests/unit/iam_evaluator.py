"""What IAM would decide: explicit deny, else allow, else not allowed; wildcards of actions and resources; conditions.

As AWS documents the evaluation of identity policies ("Policy evaluation logic"), for what the template uses: anything else
(NotAction, NotResource, another condition operator) is an error rather than a guess. Service control policies, permission
boundaries and session policies are not the template's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from template_kit import Rendered

KNOWN = {"Sid", "Effect", "Action", "Resource", "Condition"}


def listed(value: Any) -> list[Any]:
    """One or many, as a list."""
    return value if isinstance(value, list) else [value]


def policies(rendered: Rendered, role: str) -> dict[str, list[dict[str, Any]]]:
    """The statements of everything that is attached to a role, by the policy's name."""
    properties = rendered.properties(role)
    assert not properties.get("ManagedPolicyArns"), "managed policies are not looked into"
    found = {item["PolicyName"]: listed(item["PolicyDocument"]["Statement"]) for item in properties.get("Policies", [])}
    name = rendered({"Ref": role})
    for policy in rendered.of_type("AWS::IAM::Policy").values():
        if name in policy["Roles"]:
            found[policy["PolicyName"]] = listed(policy["PolicyDocument"]["Statement"])
    return found


def statements(rendered: Rendered, role: str) -> list[dict[str, Any]]:
    """All of a role's."""
    return [statement for group in policies(rendered, role).values() for statement in group]


def allowed(given: list[dict[str, Any]], action: str, resource: str, context: Mapping[str, str] | None = None) -> bool:
    """Whether these statements let a principal do it."""
    matching = list(_matching(given, action, resource, context or {}))
    return "Deny" not in matching and "Allow" in matching


def _matching(given: list[dict[str, Any]], action: str, resource: str, context: Mapping[str, str]) -> Iterator[str]:
    for statement in given:
        assert set(statement) <= KNOWN, f"not understood: {set(statement) - KNOWN}"
        if (
            any(like(pattern, action, caseless=True) for pattern in listed(statement["Action"]))
            and any(like(pattern, resource) for pattern in listed(statement["Resource"]))
            and all(_holds(operator, keys, context) for operator, keys in statement.get("Condition", {}).items())
        ):
            yield statement["Effect"]


def _holds(operator: str, keys: Mapping[str, Any], context: Mapping[str, str]) -> bool:
    """All keys must hold; a key holds if any of its values does. What the request does not tell does not hold."""
    for key, values in keys.items():
        told = {name.lower(): value for name, value in context.items()}.get(key.lower())
        if told is None:
            return False
        match operator:
            case "StringEquals":
                good = told in listed(values)
            case "StringLike" | "ArnLike" | "ArnEquals":
                good = any(like(value, told) for value in listed(values))
            case _:
                raise AssertionError(f"the condition operator {operator} is not understood")
        if not good:
            return False
    return True


def like(pattern: str, text: str, *, caseless: bool = False) -> bool:
    """IAM's wildcards: * is any number of characters, slashes too; ? is one."""
    expression = "".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in pattern)
    return re.fullmatch(expression, text, re.DOTALL | (re.IGNORECASE if caseless else 0)) is not None
