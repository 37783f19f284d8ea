"""The IAM policies allow what the code calls, on this cluster's buckets and nodes, and no more."""

import json
import re
from typing import Any

import pytest
import yaml
from ray.autoscaler.tags import TAG_RAY_CLUSTER_NAME

from tests.helpers import ROOT

Statement = dict[str, Any]
# What each call of the S3 client asks for; fsspec's single and multipart puts come besides.
RIGHTS = {
    "list_objects_v2": "s3:ListBucket",
    "list_objects": "s3:ListBucket",
    "delete_object": "s3:DeleteObject",
    "head_bucket": "s3:ListBucket",
    "head_object": "s3:GetObject",
    "get_object": "s3:GetObject",
    "put_object": "s3:PutObject",
}
PUTS = {"s3:PutObject", "s3:AbortMultipartUpload"}
CHANGES = PUTS | {"s3:DeleteObject"}


def statements(name: str) -> dict[str, Statement]:
    """The statements of a policy by Sid, actions and resources as lists."""
    policy = json.loads((ROOT / "cluster" / name).read_text())
    assert policy["Version"] == "2012-10-17"
    for statement in policy["Statement"]:
        for key in ("Action", "Resource"):
            value = statement[key]
            statement[key] = [value] if isinstance(value, str) else value
    found = {s["Sid"]: s for s in policy["Statement"]}
    assert len(found) == len(policy["Statement"])
    return found


@pytest.fixture(scope="module")
def data() -> dict[str, Statement]:
    return statements("iam-policy.json")


@pytest.fixture(scope="module")
def launcher() -> dict[str, Statement]:
    return statements("iam-launcher-policy.json")


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())


def actions(policy: dict[str, Statement]) -> set[str]:
    return {action for statement in policy.values() for action in statement["Action"]}


@pytest.mark.parametrize("name", ["iam-policy.json", "iam-launcher-policy.json"])
def test_nothing_is_allowed_wholesale(name: str) -> None:
    for statement in statements(name).values():
        assert set(statement) <= {"Sid", "Effect", "Action", "Resource", "Condition"}
        assert statement["Effect"] == "Allow"
        assert not any("*" in action for action in statement["Action"])
        if "*" in statement["Resource"]:
            assert all(a.split(":")[1].startswith("Describe") for a in statement["Action"])


def test_the_rights_on_s3_are_those_that_the_code_uses(data: dict[str, Statement]) -> None:
    source = "".join(path.read_text() for path in (ROOT / "sdmad").rglob("*.py"))
    calls = set(re.findall(r"client\(\)\.(\w+)\(", source))
    assert calls, "no calls of the S3 client found in sdmad/storage/s3.py"
    assert calls <= set(RIGHTS), "say which right these calls need"
    assert actions(data) == {RIGHTS[call] for call in calls} | PUTS


def test_the_archive_is_never_written(data: dict[str, Statement]) -> None:
    for statement in data.values():
        if CHANGES & set(statement["Action"]):
            assert statement["Resource"] == ["arn:aws:s3:::REPLACE-output-bucket/sdmad/*"]


def test_listings_stay_below_the_prefix_of_the_objects(data: dict[str, Statement]) -> None:
    """`IfExists`: HeadBucket, and HeadObject of a missing key, carry no prefix; without the right
    to list S3 answers them with 403, not with 404."""
    objects = {resource for s in data.values() for resource in s["Resource"] if "/" in resource}
    listings = [s for s in data.values() if s["Action"] == ["s3:ListBucket"]]
    assert len(objects) == len(listings) == 2
    for listing in listings:
        [bucket] = listing["Resource"]
        prefix, below = listing["Condition"]["StringLikeIfExists"]["s3:prefix"]
        assert below == f"{prefix}/*"
        assert f"{bucket}/{below}" in objects


def test_the_head_starts_and_ends_instances_and_nothing_else(
    launcher: dict[str, Statement],
) -> None:
    instances = {"DescribeInstances", "RunInstances", "CreateTags", "TerminateInstances"}
    assert actions(launcher) == {f"ec2:{name}" for name in instances} | {"iam:PassRole"}


def test_what_the_head_starts_is_a_worker_of_this_cluster(
    launcher: dict[str, Statement], cluster: dict[str, Any]
) -> None:
    start = launcher["StartWorkersOfThisCluster"]["Condition"]
    assert start["StringEquals"] == {
        f"aws:RequestTag/{TAG_RAY_CLUSTER_NAME}": cluster["cluster_name"],
        "ec2:MetadataHttpTokens": "required",
    }
    [profile] = start["ArnEquals"].values()
    node_types = cluster["available_node_types"]
    profiles = {
        t["node_config"]["IamInstanceProfile"]["Name"]
        for name, t in node_types.items()
        if name != cluster["head_node_type"]
    }
    assert profiles == {profile.split("/")[1]}
    [role] = launcher["GiveWorkersTheirRole"]["Resource"]
    assert profiles == {role.split("/")[1]}
    assert launcher["GiveWorkersTheirRole"]["Condition"] == {
        "StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}
    }
    assert launcher["WithEncryptedDisks"]["Condition"] == {"Bool": {"ec2:Encrypted": "true"}}


def test_the_head_changes_only_nodes_of_this_cluster(
    launcher: dict[str, Statement], cluster: dict[str, Any]
) -> None:
    own = {f"aws:ResourceTag/{TAG_RAY_CLUSTER_NAME}": cluster["cluster_name"]}
    for statement in launcher.values():
        if {"ec2:TerminateInstances", "ec2:CreateTags"} & set(statement["Action"]):
            at_launch = {"ec2:CreateAction": "RunInstances"}
            assert statement["Condition"]["StringEquals"] in (own, at_launch)
        if "ec2:TerminateInstances" in statement["Action"]:
            assert statement["Condition"]["StringEquals"] == own


def test_the_head_may_use_what_the_launcher_file_names(
    launcher: dict[str, Statement], cluster: dict[str, Any]
) -> None:
    region = cluster["provider"]["region"]
    allowed = {
        r for s in launcher.values() if s["Action"] == ["ec2:RunInstances"] for r in s["Resource"]
    }
    assert all(resource.startswith(f"arn:aws:ec2:{region}:") for resource in allowed)
    named = {resource.split(":", 5)[5] for resource in allowed}
    for node_type in cluster["available_node_types"].values():
        node = node_type["node_config"]
        assert {f"subnet/{s}" for s in node["SubnetIds"]} <= named
        assert {f"security-group/{g}" for g in node["SecurityGroupIds"]} <= named
        assert f"image/{node['ImageId']}" in named
    anywhere = {"instance/*", "volume/*", "network-interface/*", "spot-instances-request/*"}
    assert anywhere <= named


def test_no_cluster_file_has_credentials() -> None:
    for path in [ROOT / "ray_cluster.yaml", *(ROOT / "cluster").rglob("*")]:
        if path.is_file():
            found = re.search(r"AKIA|ASIA|PRIVATE KEY|kind: Secret|password:", path.read_text())
            assert not found, path
