"""cluster/kubernetes: valid fields, security, versions and room for the jobs, in every overlay."""

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _generate_available_node_types_from_ray_cr_spec as node_types_of,
)

from sdmad.runtime.cluster import Resources
from sdmad.scoring.pools import THREADS, PipelineConfig, parse_pool
from tests.cluster.helpers import (
    holds,
    image_tag,
    job_requests,
    parse_job,
    pinned,
    scoring_requests,
)
from tests.cluster.kustomize import Manifest, render
from tests.helpers import ROOT

KUBERNETES = ROOT / "cluster/kubernetes"
FOLDERS = ["base", "overlays/small", "overlays/gpu"]
API_VERSION = "1.33"
GPU = "nvidia.com/gpu"

# Fields of the API reference of KubeRay 1.7 (docs/reference/api.md of ray-project/kuberay).
KNOWN = {
    kind: set(fields.split())
    for kind, fields in {
        "RayClusterSpec": """
            upgradeStrategy authOptions suspend managedBy autoscalerOptions headServiceAnnotations
            enableInTreeAutoscaling gcsFaultToleranceOptions historyServerOptions networkPolicy
            tlsOptions headGroupSpec rayVersion workerGroupSpecs""",
        "AuthOptions": "enableK8sTokenAuth secretName mode",
        "AutoscalerOptions": """
            resources image imagePullPolicy securityContext idleTimeoutSeconds upscalingMode
            version env envFrom volumeMounts command args""",
        "HeadGroupSpec": """
            template headService enableIngress ingressOptions resources labels rayStartParams
            serviceType""",
        "WorkerGroupSpec": """
            suspend groupName replicas minReplicas maxReplicas idleTimeoutSeconds priority
            resources labels rayStartParams template scaleStrategy numOfHosts""",
        "RayJobSpec": """
            activeDeadlineSeconds backoffLimit rayClusterSpec submitterPodTemplate metadata
            clusterSelector submitterConfig managedBy deletionStrategy entrypoint runtimeEnvYAML
            jobId submissionMode entrypointResources entrypointNumCpus entrypointNumGpus
            ttlSecondsAfterFinished preRunningDeadlineSeconds shutdownAfterJobFinishes suspend""",
    }.items()
}


@pytest.fixture(scope="module", params=FOLDERS)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return render(KUBERNETES / request.param)


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [m for m in manifests if m["kind"] == kind]


def jobs_of(manifests: list[Manifest]) -> list[Manifest]:
    return of_kind(manifests, "RayJob")


def clusters(manifests: list[Manifest]) -> list[Manifest]:
    """The specs of the standing cluster and of each job's."""
    standing = [m["spec"] for m in of_kind(manifests, "RayCluster")]
    return standing + [m["spec"]["rayClusterSpec"] for m in jobs_of(manifests)]


def pods(manifests: list[Manifest]) -> list[Manifest]:
    """Every pod template, the head's with the container that KubeRay adds for the autoscaler."""
    found = [m["spec"]["submitterPodTemplate"] for m in jobs_of(manifests)]
    for cluster in clusters(manifests):
        head, options = cluster["headGroupSpec"]["template"], cluster["autoscalerOptions"]
        added = {k: options[k] for k in ("resources", "securityContext")}
        own = head["spec"]["containers"]
        image = own[0]["image"]
        containers = [*own, {"name": "autoscaler", "image": image, **added}]
        found.append({**head, "spec": {**head["spec"], "containers": containers}})
        found += [group["template"] for group in cluster["workerGroupSpecs"]]
    return found


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_kubectl_builds_the_same(folder: str) -> None:
    built = subprocess.run(
        ["kubectl", "kustomize", KUBERNETES / folder], capture_output=True, text=True, check=True
    )

    def by_name(manifests: Any) -> dict[tuple[str, str], Manifest]:
        return {(m["kind"], m["metadata"]["name"]): m for m in manifests}

    assert by_name(yaml.safe_load_all(built.stdout)) == by_name(render(KUBERNETES / folder))


def test_every_file_is_used() -> None:
    """Anything that lies beside a kustomization is one of its resources or patches."""
    for plan in KUBERNETES.rglob("kustomization.yaml"):
        content = yaml.safe_load(plan.read_text())
        used = {*content["resources"], *(p["path"] for p in content.get("patches", []))}
        beside = {path.name for path in plan.parent.iterdir()} - {plan.name}
        assert beside == {name for name in used if not name.startswith("..")}


def test_kubernetes_knows_every_field(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        if not manifest["apiVersion"].startswith("ray.io/"):
            kubernetes_validate.validate(manifest, API_VERSION, strict=True)
    for pod in pods(manifests):
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}} | pod
        kubernetes_validate.validate(whole, API_VERSION, strict=True)


def test_kuberay_knows_every_field(manifests: list[Manifest]) -> None:
    assert {m["apiVersion"] for m in manifests if m["kind"].startswith("Ray")} == {"ray.io/v1"}
    assert len(jobs_of(manifests)) == 2
    assert all(set(job["spec"]) <= KNOWN["RayJobSpec"] for job in jobs_of(manifests))
    for cluster in clusters(manifests):
        assert set(cluster) <= KNOWN["RayClusterSpec"]
        assert set(cluster["authOptions"]) <= KNOWN["AuthOptions"]
        assert set(cluster["autoscalerOptions"]) <= KNOWN["AutoscalerOptions"]
        assert set(cluster["headGroupSpec"]) <= KNOWN["HeadGroupSpec"]
        for group in cluster["workerGroupSpecs"]:
            assert {"groupName", "minReplicas", "maxReplicas", "template"} <= set(group)
            assert set(group) <= KNOWN["WorkerGroupSpec"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_jobs_start_the_standing_clusters_like(manifests: list[Manifest]) -> None:
    standing, *others = clusters(manifests)
    assert others == [standing, standing]


def test_pods_run_without_privileges(manifests: list[Manifest]) -> None:
    """By the `restricted` pod security standard, which the namespace enforces."""
    for pod in pods(manifests):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 1000
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert all(set(volume) == {"name", "emptyDir"} for volume in spec.get("volumes", []))
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
    [namespace] = of_kind(manifests, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_pods_say_what_they_take(manifests: list[Manifest]) -> None:
    for pod in pods(manifests):
        for container in pod["spec"]["containers"]:
            for side in ("requests", "limits"):
                assert {"cpu", "memory"} <= set(container["resources"][side])
    for cluster in clusters(manifests):
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            [container] = group["template"]["spec"]["containers"]
            assert container["resources"]["requests"] == container["resources"]["limits"]


def test_objects_spill_to_a_bounded_volume(manifests: list[Manifest]) -> None:
    def gibibytes(quantity: str) -> int:
        return int(quantity.removesuffix("Gi"))

    for cluster in clusters(manifests):
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            spec = group["template"]["spec"]
            [container], [volume] = spec["containers"], spec["volumes"]
            folder = group["rayStartParams"]["object-spilling-directory"]
            assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": folder}]
            room = gibibytes(container["resources"]["requests"]["ephemeral-storage"])
            assert 0 < gibibytes(volume["emptyDir"]["sizeLimit"]) < room


def test_versions_are_the_pinned_ones(manifests: list[Manifest]) -> None:
    assert {cluster["rayVersion"] for cluster in clusters(manifests)} == {pinned("ray")}
    images = {c["image"] for pod in pods(manifests) for c in pod["spec"]["containers"]}
    assert len(images) == 1
    assert images.pop().endswith(f"/sdmad:{image_tag()}")


def test_clusters_grow_from_nothing_and_ask_for_a_token(manifests: list[Manifest]) -> None:
    for cluster in clusters(manifests):
        assert cluster["authOptions"] == {"mode": "token"}
        assert cluster["enableInTreeAutoscaling"] is True
        assert cluster["autoscalerOptions"]["version"] == "v2"
        for group in cluster["workerGroupSpecs"]:
            assert group["replicas"] == group["minReplicas"] == 0 < group["maxReplicas"]
            assert group["template"]["spec"]["automountServiceAccountToken"] is False


def test_the_requests_of_the_jobs_fit_on_workers(manifests: list[Manifest]) -> None:
    """With the resources that Ray's autoscaler reads from the manifests."""
    head, *workers = node_types_of(clusters(manifests)[0]).values()
    assert head["resources"]["CPU"] == 0
    assert all(type(w["resources"]["CPU"]) is int for w in workers)
    gpus = any("GPU" in w["resources"] for w in workers)
    for request in job_requests(gpus):
        assert any(holds(w["resources"], request) for w in workers), request


def test_gpu_workers_stand_on_gpu_nodes_only() -> None:
    groups = clusters(render(KUBERNETES / "overlays/gpu"))[0]["workerGroupSpecs"]
    assert [group["groupName"] for group in groups] == ["cpu", "gpu"]
    assert groups[1]["template"]["spec"]["containers"][0]["resources"]["limits"][GPU] == "1"
    tolerations = groups[1]["template"]["spec"]["tolerations"]
    assert tolerations == [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
    assert "tolerations" not in groups[0]["template"]["spec"]


def options_of(job: Manifest) -> tuple[str, dict[str, Any]]:
    """A job's name and the options of its entrypoint; a click error for what it does not have."""
    python, script, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert python == "python"
    return Path(script).stem, parse_job(Path(script).stem, arguments)


def test_entrypoints_are_jobs_with_their_options(manifests: list[Manifest]) -> None:
    parsed = dict(options_of(job) for job in jobs_of(manifests))
    assert set(parsed) == {"train_seeds", "score_archive"}
    assert parsed["score_archive"]["detector"] == parsed["train_seeds"]["output"]
    given = [v for options in parsed.values() for v in options.values() if "/" in str(v)]
    assert all(value.startswith("s3://REPLACE-") for value in given)


def test_the_detectors_of_the_entrypoint_leave_room_for_readers(manifests: list[Manifest]) -> None:
    options = dict(options_of(job) for job in jobs_of(manifests))["score_archive"]
    groups = list(node_types_of(clusters(manifests)[0]).values())[1:]
    total = {
        name: sum(g["max_workers"] * g["resources"].get(name, 0) for g in groups)
        for name in ("CPU", "GPU")
    }
    assert bool(options["detector_gpus"]) == bool(total["GPU"])
    pool = parse_pool(options["detectors"])
    config = PipelineConfig(
        detectors=pool,
        detector_cpus=options["detector_cpus"],
        detector_gpus=options["detector_gpus"],
    )
    if not total["GPU"]:
        cores = min(min(THREADS, g["resources"]["CPU"]) for g in groups)
        assert pool[1] * cores == total["CPU"], "detectors fill the cores that readers leave"
    for seen in (Resources(0, 0), Resources(total["CPU"], total["GPU"])):
        reader, detector = scoring_requests(config, seen)
        assert pool[1] * detector["CPU"] + reader["CPU"] <= total["CPU"]
        assert pool[1] * detector.get("GPU", 0) <= total["GPU"]
        assert any(holds(g["resources"], detector) for g in groups), "else it waits forever"


def test_failed_jobs_are_tried_again_and_leave_no_cluster(manifests: list[Manifest]) -> None:
    for job in jobs_of(manifests):
        assert 0 < job["spec"]["backoffLimit"] <= 3
        assert job["spec"]["shutdownAfterJobFinishes"] is True


def test_heads_are_not_evicted(manifests: list[Manifest]) -> None:
    [budget] = of_kind(manifests, "PodDisruptionBudget")
    assert budget["spec"]["minAvailable"] >= len(clusters(manifests))
    for cluster in clusters(manifests):
        labels = {
            **cluster["headGroupSpec"]["template"]["metadata"]["labels"],
            "ray.io/node-type": "head",  # KubeRay's
        }
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_ray_pods_use_the_service_account_with_the_role(manifests: list[Manifest]) -> None:
    [account] = of_kind(manifests, "ServiceAccount")
    role = account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"]
    assert role.endswith(":role/sdmad-pods")
    for cluster in clusters(manifests):
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            assert group["template"]["spec"]["serviceAccountName"] == account["metadata"]["name"]
