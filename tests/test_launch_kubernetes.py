"""`launch/gpu_k8s.yaml`: its parts agree, and its processes meet."""

import re

import yaml

from tests.launch_stage import LAUNCH, free_port


def manifest():
  documents = list(yaml.safe_load_all((LAUNCH / "gpu_k8s.yaml").read_text()))
  assert [x["kind"] for x in documents] == ["Service", "Job"]
  return documents


def test_kubernetes_manifest_agrees_with_itself():
  service, job = manifest()
  name, spec = job["metadata"]["name"], job["spec"]
  pod = spec["template"]["spec"]
  (box,) = pod["containers"]
  given = dict(x[2:].split("=", 1) for x in box["args"])
  assert spec["completionMode"] == "Indexed"
  count = int(given["num_processes"])
  assert count == spec["completions"] == spec["parallelism"] > 1
  assert given["process_id"] == "$(JOB_COMPLETION_INDEX)"
  host, port = given["coordinator_address"].split(":")
  assert host == f"{name}-0.{service['metadata']['name']}" and int(port) > 1023
  assert pod["subdomain"] == service["metadata"]["name"]
  assert service["spec"]["clusterIP"] == "None"
  assert service["spec"]["publishNotReadyAddresses"] is True
  assert service["spec"]["selector"] == {"job-name": name}
  assert box["resources"]["limits"]["nvidia.com/gpu"] >= 1
  shared = {x["name"]: x for x in pod["volumes"]}["shared"]
  assert shared["persistentVolumeClaim"]["claimName"]
  mount = {x["name"]: x["mountPath"] for x in box["volumeMounts"]}["shared"]
  env = {x["name"]: x["value"] for x in box["env"]}
  for path in (
    given["workdir"],
    given["config.data.data_dir"],
    env["JAX_COMPILATION_CACHE_DIR"],
  ):
    assert path.startswith(mount + "/")


def test_kubernetes_retries_preemption_without_counting_it():
  spec = manifest()[1]["spec"]
  pod = spec["template"]["spec"]
  assert pod["restartPolicy"] == "Never"  # Else no policy is allowed.
  assert pod["terminationGracePeriodSeconds"] >= 120
  names = [box["name"] for box in pod["containers"]]
  actions = {}
  for rule in spec["podFailurePolicy"]["rules"]:
    for condition in rule.get("onPodConditions", []):
      assert condition["status"] == "True"
      actions[condition["type"]] = rule["action"]
    codes = rule.get("onExitCodes", {"values": []})
    assert codes.get("containerName", names[0]) in names
    actions |= {x: rule["action"] for x in codes["values"]}
  assert actions == {"DisruptionTarget": "Ignore", 143: "Ignore", 2: "FailJob"}
  assert spec["backoffLimit"] > 0


def test_kubernetes_starts_real_processes(stage):
  """By the manifest's flags, as the kubelet fills them in."""
  stage.joining()
  stage.env["KUBERNETES_SERVICE_HOST"] = "10.0.0.1"
  (box,) = manifest()[1]["spec"]["template"]["spec"]["containers"]
  port = free_port()
  pods = []
  for index in range(2):
    line = " ".join([*box["command"], *box["args"]])
    line = line.replace("$(JOB_COMPLETION_INDEX)", str(index))
    line = re.sub(r"(address=)\S+", rf"\g<1>127.0.0.1:{port}", line)
    pods.append(stage.start(*line.split()))
  said = [pod.communicate(timeout=100) for pod in pods]
  assert [pod.returncode for pod in pods] == [0, 0], said
  assert [out for out, _ in said] == ["0 of 2 4\n", "1 of 2 4\n"]
