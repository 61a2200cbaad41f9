"""
The API's description, made from the shapes of its messages: nothing in it is said twice.

Pure (OpenAPI 3.1).
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

import realtime
from realtime.api.messages import BatchRequest, BatchResult
from realtime.api.methods import Methods


def describe(methods: Methods, prefix: str) -> dict[str, Any]:
    """
    Return the API as an OpenAPI 3.1 document.

    Every answer is 200, also an error of a method: so each operation has one schema with `result` and `error`. `tail`
    is left out, since OpenAPI has no words for a stream of events.

    Args:
        methods: whose shapes are described. Their names are the document's, so a renamed shape renames a schema.
        prefix: what stands before each method in its path.
    """
    shapes = [shape for shape, _, _ in methods.by_name.values()] + [result for _, _, result in methods.by_name.values()]
    _, components = msgspec.json.schema_components(
        [*shapes, BatchRequest, BatchResult], schema_hook=_any, ref_template="#/components/schemas/{name}"
    )

    def operation(name: str, shape: type, result: Any) -> dict[str, Any]:
        """Return what OpenAPI says of one method."""
        told = {"type": "object", "properties": {"result": result, "error": {"$ref": "#/components/schemas/Error"}}}
        return {
            "post": {
                "operationId": name,
                "security": [{"key": []}],
                "requestBody": {"content": {"application/json": {"schema": _ref(shape)}}},
                "responses": {
                    "200": {"description": "A result, or an error.", "content": {"application/json": {"schema": told}}},
                    "401": {"description": "The key is missing or wrong."},
                },
            }
        }

    paths = {f"{prefix}/{name}": operation(name, shape, _ref(of)) for name, (shape, _, of) in methods.by_name.items()}
    paths[f"{prefix}/batch"] = operation("batch", BatchRequest, _ref(BatchResult))
    error = {"type": "object", "properties": {"code": {"type": "integer"}, "message": {"type": "string"}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "realtime", "version": realtime.__version__},
        "paths": paths,
        "components": {
            "schemas": {**components, "Error": error},
            "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}},
        },
    }


def _ref(shape: type) -> dict[str, str]:
    """Return a reference to a shape, which is described once, among the components."""
    return {"$ref": f"#/components/schemas/{shape.__name__}"}


def _any(kind: type) -> dict[str, Any]:
    """Return the schema of a type that msgspec does not know. Raw is any JSON, which is the empty schema."""
    if kind is Raw:
        return {}
    raise NotImplementedError
