"""Which actions of AWS a module of ours asks for, read from its source: calls of what `account.client(service)` returned."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import botocore.session
from botocore import xform_name

NAMES = {
    "resourcegroupstaggingapi": "tag",
    "service-quotas": "servicequotas",
}
"""The prefix of actions, where it is not the service's name."""
OTHERS = {
    "s3:ListObjectsV2": "s3:ListBucket",
    "s3:ListObjectVersions": "s3:ListBucketVersions",
    "s3:HeadBucket": "s3:ListBucket",
    "s3:HeadObject": "s3:GetObject",
    "s3:DeleteObjects": "s3:DeleteObject",
}
"""Operations that are no action of their own (AWS Service Authorization Reference)."""


@cache
def _operations(service: str) -> dict[str, str]:
    """The operations of a service by the name of their method."""
    model = botocore.session.get_session().get_service_model(service)
    return {xform_name(name): name for name in model.operation_names}


def _service(call: ast.expr) -> str | None:
    """`...client("service"...)`."""
    match call:
        case ast.Call(func=ast.Attribute(attr="client"), args=[ast.Constant(value=str(service)), *_]):
            return service
    return None


def _bound(tree: ast.AST) -> dict[str, set[str]]:
    """Names and attributes that hold a client, over the whole module."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and (service := _service(node.value)) is not None:
            for target in node.targets:
                found.setdefault(ast.unparse(target), set()).add(service)
    return found


def _asked(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Service and method."""
    bound = _bound(tree)

    def services(value: ast.expr) -> set[str]:
        service = _service(value)
        return {service} if service is not None else bound.get(ast.unparse(value), set())

    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        words = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        if isinstance(node.func, ast.Attribute):
            for service in services(node.func.value):
                method = words[0] if node.func.attr in ("get_paginator", "can_paginate") and words else node.func.attr
                yield service, method
        # A helper that is given the client and the method's name.
        for argument in node.args:
            for service in services(argument):
                for word in words:
                    yield service, word


def actions(source: Path) -> set[str]:
    """The actions, as IAM calls them."""
    found = set()
    for service, method in _asked(ast.parse(source.read_text(encoding="utf-8"))):
        if (operation := _operations(service).get(method)) is not None:
            action = f"{NAMES.get(service, service)}:{operation}"
            found.add(OTHERS.get(action, action))
    return found
