"""docker/helm/fast-vc: rendered by Helm's own library, held against Kubernetes' published schemas and against what we
know. `make test-helm` installs both libraries, which are too large for everybody."""

from __future__ import annotations

import configparser
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.addresses import parse_endpoint
from shared.config import ROOT, load
from tools.service.cli import main

ASKED_FOR = "HELM_TESTS"  # `make test-helm` sets it: then the libraries must be there
if os.environ.get(ASKED_FOR) == "1":
    import helm_python
    import kubernetes_validate
else:
    helm_python = pytest.importorskip("helm_python", reason="make test-helm")
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="make test-helm")

CHART = ROOT / "docker" / "helm" / "fast-vc"
KUBERNETES = ("1.25", "1.30", "1.34", kubernetes_validate.latest_version())
EVERYTHING: dict[str, Any] = {
    "imagePullSecrets": [{"name": "registry"}],
    "env": {"FASTVC_LOG__LEVEL": "DEBUG"},
    "gateway": {
        "autoscaling": {"enabled": True},
        "env": {"FASTVC_GATEWAY__CODEC_THREADS": 4},
        "nodeSelector": {"a": "b"},
        "uploads": {"claim": "voices"},
    },
    "worker": {
        "gpus": 1,
        "model": "tiny",
        "runtimeClassName": "nvidia",
        "checkpoints": {"claim": "weights"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "autoscaling": {"enabled": True},
    },
    "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
    "ingress": {"enabled": True, "tlsSecret": "tls"},
    "networkPolicy": {
        "callers": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
        "workerEgress": [{"to": [{"ipBlock": {"cidr": "10.9.0.0/16"}}]}],
    },
}
LITTLE: dict[str, Any] = {
    "podDisruptionBudget": {"enabled": False},
    "networkPolicy": {"enabled": False},
    "topologySpread": False,
}
VALUES = {"default": {}, "everything": EVERYTHING, "little": LITTLE}


def render(values: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Every resource by kind and name, as release `fvc` in namespace `voices`."""
    with helm_python.Chart.load(CHART) as chart:
        made = chart.render(values=values, name="fvc", namespace="voices")
    documents = [one for name, text in made.items() if name.endswith(".yaml") for one in yaml.safe_load_all(text)]
    return {(one["kind"], one["metadata"]["name"]): one for one in documents if one}


def pod(resources: dict[tuple[str, str], dict[str, Any]], part: str) -> dict[str, Any]:
    spec: dict[str, Any] = resources["Deployment", f"fvc-fast-vc-{part}"]["spec"]["template"]["spec"]
    return spec


@pytest.fixture(params=VALUES)
def resources(request: pytest.FixtureRequest) -> dict[tuple[str, str], dict[str, Any]]:
    return render(VALUES[request.param])


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_every_resource(resources: dict[tuple[str, str], dict[str, Any]], version: str) -> None:
    for one in resources.values():
        kubernetes_validate.validate(one, version, strict=True)


def test_what_is_there_and_what_is_asked_for() -> None:
    always = {"Deployment", "Service"}
    assert {kind for kind, _ in render(LITTLE)} == always
    assert {kind for kind, _ in render({})} == always | {"PodDisruptionBudget", "NetworkPolicy"}
    more = {"PodDisruptionBudget", "NetworkPolicy", "HorizontalPodAutoscaler", "Ingress"}
    assert {kind for kind, _ in render(EVERYTHING)} == always | more


def test_every_setting_is_one_of_ours(resources: dict[tuple[str, str], dict[str, Any]]) -> None:
    for part in ("gateway", "worker"):
        (container,) = pod(resources, part)["containers"]
        given = {one["name"]: one["value"] for one in container["env"] if one["name"].startswith("FASTVC_")}
        load(environ=given)  # an unknown key or a wrong value is an error
        command, *arguments = container["args"]
        context = main.commands[command].make_context(command, arguments)
        if part == "worker":
            (endpoint,) = context.params["gateways"]
            host, port = parse_endpoint(endpoint)
            service = resources["Service", host]["spec"]
            assert service["clusterIP"] == "None"
            assert service["publishNotReadyAddresses"]  # a gateway becomes ready by a worker's coming
            assert [one["port"] for one in service["ports"]] == [port]


def test_each_side_gets_its_own_secret_alone_where_it_looks_for_it(
    resources: dict[tuple[str, str], dict[str, Any]],
) -> None:
    wanted = {
        "gateway": {"/keys/link": "fast-vc-link-gateway", "/keys/callers": "fast-vc-api-keys"},
        "worker": {"/keys": "fast-vc-link-worker"},
    }
    for part, folders in wanted.items():
        spec = pod(resources, part)
        secrets = {one["name"]: one["secret"]["secretName"] for one in spec["volumes"] if "secret" in one}
        mounts = spec["containers"][0]["volumeMounts"]
        assert {one["mountPath"]: secrets[one["name"]] for one in mounts if one["name"] in secrets} == folders
        for one in spec["containers"][0]["env"]:
            if one["name"].endswith("KEY_FILE") or one["name"].endswith("KEYS_FILE"):
                assert any(str(Path(one["value"]).parent) == folder for folder in folders), one


def test_a_pod_has_the_time_it_takes_to_leave_and_to_begin(resources: dict[tuple[str, str], dict[str, Any]]) -> None:
    for part in ("gateway", "worker"):
        spec = pod(resources, part)
        (container,) = spec["containers"]
        env = {one["name"]: one.get("value") for one in container["env"]}
        grace_s = float(env[f"FASTVC_{part.upper()}__SHUTDOWN_GRACE_S"])
        sleep, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
        assert sleep == "sleep"
        assert spec["terminationGracePeriodSeconds"] >= grace_s + float(seconds) + 10
        startup = container["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 1800


def test_nobody_is_root_and_nothing_is_written_to_the_image(resources: dict[tuple[str, str], dict[str, Any]]) -> None:
    for part in ("gateway", "worker"):
        spec = pod(resources, part)
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["automountServiceAccountToken"] is False
        security = spec["containers"][0]["securityContext"]
        assert security["readOnlyRootFilesystem"]
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["allowPrivilegeEscalation"] is False


def test_selectors_and_targets_meet(resources: dict[tuple[str, str], dict[str, Any]]) -> None:
    labels = {
        part: resources["Deployment", f"fvc-fast-vc-{part}"]["spec"]["template"]["metadata"]["labels"]
        for part in ("gateway", "worker")
    }
    for (kind, name), one in resources.items():
        part = "worker" if "worker" in name else "gateway"
        if kind in ("Deployment", "PodDisruptionBudget"):
            assert one["spec"]["selector"]["matchLabels"].items() <= labels[part].items()
        elif kind == "Service":
            assert one["spec"]["selector"].items() <= labels["gateway"].items()
        elif kind == "NetworkPolicy":
            assert one["spec"]["podSelector"]["matchLabels"].items() <= labels[part].items()
        elif kind == "HorizontalPodAutoscaler":
            assert ("Deployment", one["spec"]["scaleTargetRef"]["name"]) in resources
            assert "replicas" not in resources["Deployment", one["spec"]["scaleTargetRef"]["name"]]["spec"]
        elif kind == "Ingress":
            backend = one["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
            assert ("Service", backend["name"]) in resources


def test_a_gpu_is_asked_for_and_its_weights_may_be_fetched() -> None:
    made = render(EVERYTHING)
    (container,) = pod(made, "worker")["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert {"name": "FASTVC_ENV", "value": "prod"} in container["env"]
    meant = {"name": "FASTVC_GATEWAY__DEFAULT_MODEL", "value": "tiny"}  # by callers who name no model
    assert meant in pod(made, "gateway")["containers"][0]["env"]
    egress = made["NetworkPolicy", "fvc-fast-vc-worker"]["spec"]["egress"]
    assert [{"port": 443, "protocol": "TCP"}] in [rule.get("ports") for rule in egress]
    assert "nvidia.com/gpu" not in pod(render({}), "worker")["containers"][0]["resources"]["limits"]


def test_what_is_kept_lies_on_claims_where_there_are_some() -> None:
    for values, claims in ((EVERYTHING, {"uploads": "voices"}), ({}, {})):
        volumes = pod(render(values), "gateway")["volumes"]
        kept = {
            one["name"]: one["persistentVolumeClaim"]["claimName"]
            for one in volumes
            if len(one) == 2 and "persistentVolumeClaim" in one
        }
        assert kept == claims
        assert {"uploads", "outputs"} <= {one["name"] for one in volumes}


def test_only_workers_reach_the_link_and_nobody_reaches_a_worker() -> None:
    made = render({})
    ingress = made["NetworkPolicy", "fvc-fast-vc-gateway"]["spec"]["ingress"]
    (link,) = [rule for rule in ingress if rule["ports"][0]["port"] == "link"]
    assert link["from"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "worker"
    assert made["NetworkPolicy", "fvc-fast-vc-worker"]["spec"]["ingress"] == []


def test_its_version_is_ours() -> None:
    project = configparser.ConfigParser()
    project.read(ROOT / "setup.cfg")
    content = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert content["appVersion"] == project["metadata"]["version"]
