"""The schemas in docs/schema, and what is wrong with a record by one of them."""

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

SCHEMAS: dict[str, dict[str, Any]] = {
    path.name.removesuffix(".schema.json"): json.loads(path.read_text("utf-8"))
    for path in sorted((Path(__file__).parents[2] / "docs" / "schema").iterdir())
}
_REGISTRY: Registry[Any] = Registry().with_resources(
    (schema["$id"], Resource.from_contents(schema)) for schema in SCHEMAS.values()
)
_VALIDATORS = {name: Draft202012Validator(schema, registry=_REGISTRY) for name, schema in SCHEMAS.items()}


def problems(name: str, record: object) -> list[str]:
    """What is wrong with `record` by the schema `name`; empty if it fits."""
    return [f"{error.json_path}: {error.message}" for error in _VALIDATORS[name].iter_errors(record)]
