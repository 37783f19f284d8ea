"""The part of kustomize that cluster/kubernetes uses, so that its tests need no other program."""

from pathlib import Path
from typing import Any

import jsonpatch
import yaml

Manifest = dict[str, Any]
KNOWN = {"apiVersion", "kind", "namespace", "resources", "images", "patches", "replacements"}


def render(folder: Path) -> list[Manifest]:
    """The manifests of a kustomization; KeyError, OSError or ValueError for what leads nowhere."""
    plan = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if unknown := set(plan) - KNOWN:
        raise ValueError(f"{folder}: {unknown} is not known here")
    manifests = [m for name in plan["resources"] for m in _load(folder / name)]
    for manifest in manifests:
        if "namespace" in plan and manifest["kind"] != "Namespace":
            manifest["metadata"]["namespace"] = plan["namespace"]
        for container in _containers(manifest):
            for image in plan.get("images", []):
                if container["image"] == image["name"]:
                    container["image"] = f"{image['newName']}:{image['newTag']}"
    for patch in plan.get("patches", []):
        changes = yaml.safe_load((folder / patch["path"]).read_text())
        for manifest in _select(manifests, patch["target"]):
            jsonpatch.apply_patch(manifest, changes, in_place=True)
    for replacement in plan.get("replacements", []):
        source = dict(replacement["source"])
        path = source.pop("fieldPath")
        value = _select(manifests, source)[0][path]
        for target in replacement["targets"]:
            for manifest in _select(manifests, target["select"]):
                for field in target["fieldPaths"]:
                    *parents, last = field.split(".")
                    for name in parents:
                        manifest = manifest[name]
                    manifest[last] = yaml.safe_load(yaml.safe_dump(value))
    return manifests


def _load(path: Path) -> list[Manifest]:
    return render(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))


def _select(manifests: list[Manifest], wanted: dict[str, str]) -> list[Manifest]:
    found = [
        m
        for m in manifests
        if m["kind"] == wanted["kind"]
        and wanted.get("name", m["metadata"]["name"]) == m["metadata"]["name"]
    ]
    if not found:
        raise ValueError(f"nothing is {wanted}")
    return found


def _containers(node: Any) -> list[Manifest]:
    if isinstance(node, list):
        return [c for child in node for c in _containers(child)]
    if not isinstance(node, dict):
        return []
    own = node.get("containers", [])
    return own + [
        c for key, child in node.items() if key != "containers" for c in _containers(child)
    ]
