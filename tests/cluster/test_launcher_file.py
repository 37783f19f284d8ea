"""ray_cluster.yaml as Ray's launcher, AWS provider and autoscaler read it, on a simulated AWS."""

import copy
import re
import tomllib
from typing import Any
from unittest.mock import MagicMock

import boto3
import pytest
import ray
import yaml
from moto import mock_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.tags import TAG_RAY_CLUSTER_NAME, TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import ResourceRequestByCount

from tests.cluster.helpers import holds, job_requests, pinned
from tests.helpers import ROOT

FILE = ROOT / "ray_cluster.yaml"
NodeTypes = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """The file as `ray up` completes and validates it."""
    prepared = prepare_config(yaml.safe_load(FILE.read_text()))
    validate_config(prepared)
    return prepared


@pytest.fixture(scope="module")
def workers(config: dict[str, Any]) -> NodeTypes:
    types = dict(config["available_node_types"])
    del types[config["head_node_type"]]
    return types


def is_spot(node_type: dict[str, Any]) -> bool:
    return node_type["node_config"].get("InstanceMarketOptions", {}).get("MarketType") == "spot"


def commands(config: dict[str, Any], *names: str) -> str:
    return "\n".join(command for name in names for command in config[name])


def test_the_head_does_no_work(config: dict[str, Any]) -> None:
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert head["max_workers"] == 0
    assert not is_spot(head), "a job ends with its head"
    assert "--num-cpus=0" in commands(config, "head_start_ray_commands")


def test_workers_come_and_go_with_the_work(config: dict[str, Any], workers: NodeTypes) -> None:
    assert {t["min_workers"] for t in workers.values()} == {0}
    assert all(0 < t["max_workers"] <= config["max_workers"] for t in workers.values())
    assert 0 < config["idle_timeout_minutes"] <= 30
    assert config["provider"]["cache_stopped_nodes"] is False


def test_resources_are_whole_numbers(config: dict[str, Any]) -> None:
    for node_type in config["available_node_types"].values():
        assert all(type(amount) is int for amount in node_type["resources"].values())


@pytest.mark.parametrize("gpus", [True, False])
def test_every_request_of_the_jobs_fits_on_a_worker(gpus: bool, workers: NodeTypes) -> None:
    for request in job_requests(gpus):
        assert any(holds(t["resources"], request) for t in workers.values()), request


def test_each_spot_type_has_an_on_demand_type_of_the_same_shape(workers: NodeTypes) -> None:
    spot = [t for t in workers.values() if is_spot(t)]
    on_demand = [t for t in workers.values() if not is_spot(t)]
    assert {"GPU" in t["resources"] for t in spot} == {True, False}
    for node_type in spot:
        same = [t for t in on_demand if t["resources"] == node_type["resources"]]
        assert same
        assert all(t["priority"] < node_type["priority"] for t in same)


def launches(config: dict[str, Any], request: dict[str, float], count: int) -> dict[str, int]:
    """The nodes that autoscaler v2 starts in an empty cluster for `count` equal requests."""
    settings = AutoscalingConfig(copy.deepcopy(config), skip_content_hash=True)
    demand = ResourceRequestByCount(request=ResourceRequestUtil.make(request), count=count)
    reply = ResourceDemandScheduler(MagicMock()).schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=settings.get_node_type_configs(),
            max_num_nodes=settings.get_max_num_nodes(),
            resource_requests=[demand],
        )
    )
    return {launch.instance_type: launch.count for launch in reply.to_launch}


@pytest.mark.parametrize("gpus", [True, False])
def test_the_autoscaler_starts_one_spot_worker_for_a_request(
    gpus: bool, config: dict[str, Any], workers: NodeTypes
) -> None:
    for request in job_requests(gpus):
        [(name, count)] = launches(config, request, 1).items()
        assert count == 1
        assert is_spot(workers[name])
        assert ("GPU" in workers[name]["resources"]) == ("GPU" in request)


def test_the_autoscaler_goes_on_to_on_demand_when_spot_types_are_full(
    config: dict[str, Any], workers: NodeTypes
) -> None:
    most = {name: t["max_workers"] for name, t in workers.items() if "GPU" in t["resources"]}
    for count in range(1, sum(most.values()) + 1):
        started = launches(config, {"CPU": 1, "GPU": 1}, count)
        assert sum(started.values()) == count
        spot = {name: most[name] for name in most if is_spot(workers[name])}
        full = {name: started.get(name, 0) for name in spot} == spot
        assert full or set(started) <= set(spot)


def test_instances_are_spot_encrypted_private_and_have_a_role(
    config: dict[str, Any], tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's AWS provider starts one instance of every node type on a simulated EC2."""
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # for the key pair that Ray makes
    assert config["provider"]["use_internal_ips"] is True
    region = config["provider"]["region"]
    with mock_aws():
        ec2, filled = boto3.client("ec2", region), copy.deepcopy(config)
        network = simulated_network(region)
        for node_type in filled["available_node_types"].values():
            assert all(len(v) for k, v in node_type["node_config"].items() if k in network)
            node_type["node_config"] |= network
        filled = AWSNodeProvider.bootstrap_config(
            AWSNodeProvider.fillout_available_node_types_resources(filled)
        )
        assert list(tmp_path.glob(".ssh/*.pem"))
        provider = AWSNodeProvider(filled["provider"], filled["cluster_name"])
        for name, node_type in filled["available_node_types"].items():
            role = "head" if name == filled["head_node_type"] else "worker"
            tags = {TAG_RAY_NODE_KIND: role, TAG_RAY_USER_NODE_TYPE: name}
            made = provider.create_node(node_type["node_config"], tags, 1)
            found = ec2.describe_instances(InstanceIds=list(made))
            instance = found["Reservations"][0]["Instances"][0]
            assert (instance.get("InstanceLifecycle") == "spot") == is_spot(node_type)
            assert instance["MetadataOptions"]["HttpTokens"] == "required"
            assert instance["IamInstanceProfile"]["Arn"].endswith(f"/sdmad-{role}")
            assert instance["SubnetId"] in network["SubnetIds"]
            assert "PublicIpAddress" not in instance
            assert [g["GroupId"] for g in instance["SecurityGroups"]] == network["SecurityGroupIds"]
            assert {"Key": TAG_RAY_CLUSTER_NAME, "Value": "sdmad"} in instance["Tags"]
            attached = [{"Name": "attachment.instance-id", "Values": list(made)}]
            volumes = ec2.describe_volumes(Filters=attached)["Volumes"]
            assert [(v["VolumeType"], v["Encrypted"]) for v in volumes] == [("gp3", True)]


def simulated_network(region: str) -> dict[str, Any]:
    """What the REPLACE lines of the file stand for, on the simulated EC2."""
    ec2, iam = boto3.client("ec2", region), boto3.client("iam", region)
    for role in ("head", "worker"):
        iam.create_instance_profile(InstanceProfileName=f"sdmad-{role}")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(GroupName="nodes", Description="nodes", VpcId=vpc)
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    return {"SubnetIds": [subnet], "SecurityGroupIds": [group["GroupId"]], "ImageId": image}


def test_ray_asks_for_a_token_and_the_dashboard_stays_on_the_head(config: dict[str, Any]) -> None:
    assert ("~/.ray/auth_token",) * 2 in config["file_mounts"].items()
    assert "RAY_AUTH_MODE=token" in commands(config, "setup_commands")
    assert "--dashboard-host=127.0.0.1" in commands(config, "head_start_ray_commands")


def test_nodes_have_the_files_and_the_ray_that_they_need(config: dict[str, Any]) -> None:
    mounts = config["file_mounts"]
    used = set(re.findall(r"~/sdmad/[\w.]+", commands(config, "setup_commands")))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for remote in used | {f"~/sdmad/{name}" for name in ("sdmad", "jobs", project["readme"])}:
        assert (ROOT / mounts[remote]).exists()
    assert not {"~/sdmad", "~/sdmad/.git", "~/sdmad/.venv"} & set(mounts), "too much to copy"
    assert ray.__version__ == pinned("ray")
