"""
Kubernetes objects and the compose file against the schemas of those that read them.

The schemas come with the packages `kubernetes-validate` and `compose-spec`. A key that is misspelt, in the wrong place
or of the wrong type is found, which YAML alone does not.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from tests.docs.pages import DOCS, ROOT, blocks

VERSION = "1.32"


def objects() -> list[dict[str, Any]]:
    """Return the objects of the Kubernetes guide that are complete."""
    texts = blocks(DOCS / "deploying" / "kubernetes.md", "yaml")
    return [each for text in texts for each in yaml.safe_load_all(text) if "kind" in each]


@pytest.mark.parametrize("found", objects(), ids=lambda found: str(found["kind"]))
def test_each_object_of_the_guide_is_valid_for_kubernetes(found: dict[str, Any]) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    validator.validate(found, VERSION, strict=True)


def test_a_misspelt_key_of_an_object_is_found() -> None:
    validator = pytest.importorskip("kubernetes_validate")
    broken = copy.deepcopy(objects()[0])
    pod = broken["spec"]["template"]["spec"]
    pod["terminationGracePeriod"] = pod.pop("terminationGracePeriodSeconds")
    with pytest.raises(validator.ValidationError, match="terminationGracePeriod"):
        validator.validate(broken, VERSION, strict=True)


@pytest.fixture
def compose() -> dict[str, Any]:
    """Return the compose file, its YAML anchors resolved."""
    found = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    assert isinstance(found, dict)
    return found


def services(compose: dict[str, Any]) -> list[str]:
    """
    Return the services of a compose file that is valid.

    Raises:
        ValueError: it is not.
    """
    read = pytest.importorskip("compose_spec").PyCompose.from_yaml(yaml.safe_dump(compose))
    read.validate()
    return list(read.service_names())


def test_the_compose_file_is_valid(compose: dict[str, Any]) -> None:
    assert set(services(compose)) == {"node-1", "node-2", "proxy", "redis"}


@pytest.mark.parametrize(
    ("key", "value"),
    [("stop_grace_perid", "50s"), ("stop_grace_period", ["50s"]), ("networks", ["nowhere"])],
)
def test_a_mistake_in_the_compose_file_is_found(compose: dict[str, Any], key: str, value: object) -> None:
    compose["services"]["node-1"][key] = value
    with pytest.raises(ValueError, match=r"stop_grace|nowhere"):
        services(compose)
