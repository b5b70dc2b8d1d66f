"""The launchers, with stubs for what only a cluster has, and real start-ups."""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time

import pytest
import yaml
from jax._src import clusters  # Where JAX finds the cluster it is in.

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = ("local.sh", "slurm.sbatch", "tpu_pod.sh")
# Started like vgsgan.main, but only joins the others and counts them.
JOIN = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--coordinator_address")
parser.add_argument("--num_processes", type=int)
parser.add_argument("--process_id", type=int)
args, _ = parser.parse_known_args()
from vgsgan import processes
processes.start(**vars(args))
import jax
found = jax.process_index(), "of", jax.process_count(), len(jax.devices())
import os
# At once, or lines of two processes meet in one.
os.write(1, (" ".join(map(str, found)) + chr(10)).encode())
"""
SAVES = 'trap "touch $RECORD/$id.saved; exit 143" TERM; touch $RECORD/$id.up; '
WAITS = "while :; do sleep 0.05; done"


class Stage:
  """A folder of stub programs, first on PATH, and what they record."""

  def __init__(self, folder):
    self.folder, self.record = folder / "bin", folder / "record"
    self.folder.mkdir()
    self.record.mkdir()
    (folder / "home").mkdir()
    self.env = {k: v for k, v in os.environ.items() if "SLURM" not in k} | {
      "PATH": f"{self.folder}:{os.environ['PATH']}",
      "HOME": str(folder / "home"),
      "RECORD": str(self.record),
    }
    self.env.pop("JAX_COMPILATION_CACHE_DIR", None)
    self.groups = []

  def stub(self, name, body):
    path = self.folder / name
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)

  def python(self, body):
    """Every process records its flags and environment, then does `body`."""
    self.stub(
      "python",
      f'[[ $1 == -c ]] && exec {sys.executable} "$@"\n'
      'id=${@: -1}; id=${id#*=}; printf "%s\\n" "$@" >"$RECORD/$id.args"\n'
      'env >"$RECORD/$id.env"\n' + body,
    )

  def joining(self):
    script = self.folder / "join.py"
    script.write_text(JOIN)
    self.stub(
      "python",
      f'[[ $1 == -c ]] && exec {sys.executable} "$@"\n'
      f'shift 2; exec {sys.executable} {script} "$@"',
    )
    self.env |= {
      "JAX_PLATFORMS": "cpu",
      "JAX_NUM_CPU_DEVICES": "2",
      "XLA_FLAGS": "",
      "PYTHONPATH": str(ROOT),
    }

  def start(self, *command):
    process = subprocess.Popen(
      [str(x) for x in command],
      env=self.env,
      cwd=self.record.parent,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )
    self.groups.append(process.pid)
    return process

  def clear(self):
    """Leaves nothing behind of a test that failed."""
    for group in self.groups:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)

  def run(self, *command):
    process = self.start(*command)
    out, err = process.communicate(timeout=100)
    return process.returncode, out, err

  def args(self, name):
    return (self.record / f"{name}.args").read_text().splitlines()

  def environment(self, name):
    lines = (self.record / f"{name}.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)

  def wait_for(self, *names):
    deadline = time.monotonic() + 60
    while not all((self.record / name).exists() for name in names):
      assert time.monotonic() < deadline, names
      time.sleep(0.02)


@pytest.fixture
def stage(tmp_path):
  stage = Stage(tmp_path)
  yield stage
  stage.clear()


def free_port(lowest=0):
  for port in range(lowest, lowest + 4096):
    with socket.socket() as free:
      try:
        free.bind(("", port))
      except OSError:
        continue
      return free.getsockname()[1]
  raise AssertionError("no port is free")


def patched(folder, name, old, new):
  """A copy of a script, with one of its constants made shorter."""
  text = (LAUNCH / name).read_text()
  assert text.count(old) == 1
  path = folder / name
  path.write_text(text.replace(old, new))
  path.chmod(0o755)
  return path


@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck_has_nothing_to_say(name):
  path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
  shellcheck = shutil.which("shellcheck", path=path)
  assert shellcheck, "install the extra `tests`"
  subprocess.run([shellcheck, LAUNCH / name], check=True)


@pytest.mark.parametrize(
  "command",
  [
    ("local.sh",),
    ("local.sh", "0", "--workdir=w"),
    ("local.sh", "--config=c", "--workdir=w"),
    ("local.sh", "2", "--config=c"),
    ("slurm.sbatch", "--config=c"),
    ("tpu_pod.sh", "create"),
    ("tpu_pod.sh", "destroy", "NAME"),
    ("tpu_pod.sh", "run", "NAME", "--config=c"),
  ],
)
def test_wrong_usage_is_one_line(stage, command):
  for name in ("python", "srun", "gcloud"):
    stage.stub(name, "touch $RECORD/started")
  code, out, err = stage.run("bash", LAUNCH / command[0], *command[1:])
  assert (code, out, err.count("\n")) == (2, "", 1)
  assert not (stage.record / "started").exists()


def test_what_the_launchers_pass_are_flags_of_main():
  # In a process of its own: other modules define flags of the same names.
  list_flags = "from absl import flags; import vgsgan.main; print(*flags.FLAGS)"
  listed = subprocess.run(
    [sys.executable, "-c", list_flags],
    capture_output=True,
    text=True,
    check=True,
    cwd=LAUNCH.parent,
  )
  passed = set()
  for name in (*SCRIPTS, "gpu_k8s.yaml"):
    text = (LAUNCH / name).read_text()
    text = re.sub(r"(?m)^\s*#.*$", "", text).partition("vgsgan.main")[2]
    passed |= set(re.findall(r"--(\w*(?:distributed|process|coord)\w*)", text))
  started = {"coordinator_address", "num_processes", "process_id"}
  assert passed == started | {"distributed"}
  assert passed <= set(listed.stdout.split())


def test_local_gives_each_process_its_flags(stage):
  stage.python("echo hello")
  mine = ["--config=c.py:a,b", "--workdir=a b", "--config.x=*"]
  code, out, _ = stage.run(LAUNCH / "local.sh", "3", *mine)
  assert code == 0
  assert sorted(out.splitlines()) == ["[1] hello", "[2] hello", "hello"]
  addresses = set()
  for i in range(3):
    *rest, address, count, process = stage.args(i)
    assert rest == ["-m", "vgsgan.main", *mine]
    assert (count, process) == ("--num_processes=3", f"--process_id={i}")
    addresses.add(address)
    cache = stage.environment(i)["JAX_COMPILATION_CACHE_DIR"]
    assert cache == f"{stage.env['HOME']}/.cache/vgsgan/jax"
  (address,) = addresses
  assert re.fullmatch(r"--coordinator_address=127\.0\.0\.1:\d+", address)


def test_local_takes_the_others_down_with_the_first_that_fails(stage):
  stage.python(
    f"{SAVES} if [[ $id == 1 ]]; then until [[ -e $RECORD/0.up && "
    f"-e $RECORD/2.up ]]; do sleep 0.05; done; exit 3; fi; {WAITS}"
  )
  code, _, err = stage.run(LAUNCH / "local.sh", "3", "--workdir=w")
  assert code == 3 and "process 1 left with 3" in err
  saved = {path.name for path in stage.record.glob("*.saved")}
  assert saved == {"0.saved", "2.saved"}


def test_local_lets_the_others_finish_after_one_that_is_done(stage):
  stage.python(
    f"{SAVES} [[ $id == 0 ]] && exit 0; sleep 0.5; touch $RECORD/$id.done"
  )
  assert stage.run(LAUNCH / "local.sh", "2", "--workdir=w")[0] == 0
  assert (stage.record / "1.done").exists()
  assert not list(stage.record.glob("*.saved"))


def test_local_kills_what_does_not_leave(stage):
  script = patched(stage.folder, "local.sh", "GRACE=30", "GRACE=1")
  stage.python(f'[[ $id == 0 ]] && exit 4; trap "" TERM; {WAITS}')
  assert stage.run(script, "2", "--workdir=w")[0] == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_local_passes_signals_on_to_all(stage, number):
  stage.python(SAVES + WAITS)
  process = stage.start(LAUNCH / "local.sh", "3", "--workdir=w")
  stage.wait_for("0.up", "1.up", "2.up")
  process.send_signal(number)
  process.communicate(timeout=60)
  assert process.returncode == 143
  assert len(list(stage.record.glob("*.saved"))) == 3


def test_local_ends_all_at_once_when_told_twice(stage):
  stage.python(SAVES.replace("exit 143", "") + WAITS)  # They do not leave.
  process = stage.start(LAUNCH / "local.sh", "2", "--workdir=w")
  stage.wait_for("0.up", "1.up")
  process.send_signal(signal.SIGTERM)
  said = process.stderr.readline()
  process.send_signal(signal.SIGTERM)  # Passed on by another launcher.
  assert "saving after this step, then leaving; again to leave at once" in said
  stage.wait_for("0.saved", "1.saved")
  time.sleep(1.5)
  assert process.poll() is None
  process.send_signal(signal.SIGTERM)
  process.communicate(timeout=20)
  assert process.returncode == 137


@pytest.mark.parametrize("visible", [None, "4,6,7"])
def test_local_gives_each_process_one_gpu(stage, visible):
  stage.python("exit 0")
  stage.stub("nvidia-smi", "printf '0\\n1\\n2\\n'")
  del stage.env["JAX_PLATFORMS"]
  stage.env.pop("CUDA_VISIBLE_DEVICES", None)
  if visible:
    stage.env["CUDA_VISIBLE_DEVICES"] = visible
  assert stage.run(LAUNCH / "local.sh", "2", "--workdir=w")[0] == 0
  got = [stage.environment(i)["CUDA_VISIBLE_DEVICES"] for i in range(2)]
  assert got == (visible or "0,1,2").split(",")[:2]
  code, _, err = stage.run(LAUNCH / "local.sh", "4", "--workdir=w")
  assert code == 2 and "4 processes, but 3 GPUs" in err


def test_local_starts_real_processes(stage):
  stage.joining()
  code, out, err = stage.run(LAUNCH / "local.sh", "2", "--workdir=w")
  assert code == 0, err
  assert {"0 of 2 4", "[1] 1 of 2 4"} <= set(out.splitlines())


# What SLURM sets in a batch script on two nodes with four GPUs each.
SLURM = {
  "SLURM_JOB_ID": "4711",
  "SLURM_JOB_NODELIST": "node[007-008]",
  "SLURM_NTASKS": "2",
  "SLURM_GPUS_ON_NODE": "4",
  "SLURM_CPUS_PER_TASK": "32",
}


@pytest.mark.parametrize("status", [0, 1, 2, 134, 143])
def test_slurm_requeues_what_saved_and_left(stage, status):
  stage.env |= SLURM
  stage.stub("srun", f'printf "%s\\n" "$@" >$RECORD/srun.args; exit {status}')
  stage.stub("scontrol", 'printf "%s\\n" "$@" >$RECORD/scontrol.args')
  mine = ["--config=c.py:a,b", "--workdir=a b"]
  code, _, _ = stage.run("bash", LAUNCH / "slurm.sbatch", *mine)
  assert code == status
  command = ["python", "-m", "vgsgan.main", "--distributed", *mine]
  assert stage.args("srun") == command
  if status == 143:
    assert stage.args("scontrol") == ["requeue", "4711"]
  else:
    assert not (stage.record / "scontrol.args").exists()


@pytest.mark.parametrize("cancelled", [False, True])
def test_slurm_requeues_unless_the_script_itself_is_ended(stage, cancelled):
  stage.env |= SLURM
  stage.stub("srun", f"id=0; echo $$ >$RECORD/pid; {SAVES} {WAITS}")
  stage.stub("scontrol", "touch $RECORD/requeued")
  process = stage.start("bash", LAUNCH / "slurm.sbatch", "--workdir=w")
  stage.wait_for("0.up")
  if cancelled:  # SIGTERM to everything, else to the tasks alone.
    process.terminate()
    process.wait(timeout=60)
  os.kill(int((stage.record / "pid").read_text()), signal.SIGTERM)
  process.communicate(timeout=60)
  stage.wait_for("0.saved")
  assert (stage.record / "requeued").exists() == (not cancelled)


def test_slurm_asks_for_a_signal_to_the_tasks_and_to_be_requeued():
  lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
  asked = [x.removeprefix("#SBATCH ") for x in lines if x.startswith("#SBATCH")]
  assert {"--requeue", "--signal=TERM@120", "--ntasks-per-node=1"} <= set(asked)
  # sbatch stops reading them at the first command.
  first = next(i for i, x in enumerate(lines) if x and x[0] != "#")
  assert not any(x.startswith("#SBATCH") for x in lines[first:])


def test_slurm_starts_real_processes(stage):
  """As srun would start them, by the variables it sets for every task."""
  stage.joining()
  port = free_port(65535 - 2**12 + 1)  # JAX derives it from the job's number.
  stage.env |= SLURM | {"SLURM_JOB_ID": str(port % 2**12)}
  stage.stub(
    "srun",
    "export SLURM_STEP_NODELIST=localhost,node008 SLURM_LOCALID=0\n"
    "echo $JAX_LOCAL_DEVICE_IDS $SRUN_CPUS_PER_TASK\n"
    'SLURM_PROCID=1 "$@" & SLURM_PROCID=0 "$@" && wait $!',
  )
  code, out, err = stage.run("bash", LAUNCH / "slurm.sbatch", "--workdir=w")
  assert code == 0, err
  assert {"0,1,2,3 32", "0 of 2 4", "1 of 2 4"} <= set(out.splitlines())


@pytest.mark.parametrize(
  ("nodes", "first"),
  [
    ("node007", "node007"),
    ("node[007-008]", "node007"),
    ("a,node[1-3]", "a"),
    ("gpu[3,5-9],b", "gpu3"),
  ],
)
def test_jax_reads_the_variables_of_slurm(monkeypatch, nodes, first):
  task = {"STEP_NODELIST": nodes, "PROCID": "1", "LOCALID": "0"}
  task = SLURM | {f"SLURM_{name}": value for name, value in task.items()}
  for name in (x for x in os.environ if x.startswith("SLURM_")):
    monkeypatch.delenv(name)
  assert not clusters.SlurmCluster.is_env_present()
  for name, value in task.items():
    monkeypatch.setenv(name, value)
  found = clusters.ClusterEnv.auto_detect_unset_distributed_params(
    None, None, None, [0, 1, 2, 3], None, None
  )
  address = f"{first}:{65535 - 2**12 + 1 + 4711 % 2**12}"
  assert tuple(found) == (address, 2, 1, [0, 1, 2, 3])


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


GCLOUD = """
printf '%s\\0' "$@" >>$RECORD/gcloud; printf '\\1\\0' >>$RECORD/gcloud
[[ $4 != scp ]] || cp "$5" $RECORD/copied.tar.gz
"""


def gcloud_calls(stage):
  calls = (stage.record / "gcloud").read_text().split("\0\1\0")[:-1]
  calls = [x.split("\0") for x in calls]
  assert all(x[:3] == ["compute", "tpus", "tpu-vm"] for x in calls)
  return [x[3:] for x in calls]


def remote_command(call):
  (command,) = (x for x in call if x.startswith("--command="))
  return command.removeprefix("--command=")


def test_tpu_create_follow_and_delete(stage):
  stage.stub("gcloud", GCLOUD)
  kind = ["--accelerator-type=v4-32", "--version=base", "--spot"]
  for action in (["create", *kind], ["follow"], ["delete"]):
    action.insert(1, "pod")
    assert stage.run(LAUNCH / "tpu_pod.sh", *action)[0] == 0
  create, follow, delete = gcloud_calls(stage)
  assert create == ["create", "pod", *kind] and delete == ["delete", "pod"]
  assert follow[:3] == ["ssh", "pod", "--worker=0"]
  assert "vgsgan.log" in remote_command(follow)


def test_tpu_stop_finds_the_run_and_not_itself(stage):
  stage.stub("gcloud", GCLOUD)
  assert stage.run(LAUNCH / "tpu_pod.sh", "stop", "pod")[0] == 0
  (call,) = gcloud_calls(stage)
  assert "--worker=all" in call
  loop, run = re.findall(r'pkill.* -f "(.*)"', remote_command(call))
  assert re.search(loop, "bash launch/tpu_pod.sh loop --workdir=w")
  assert re.search(run, "python -m vgsgan.main --distributed")
  assert not re.search(f"{loop}|{run}", remote_command(call))


def test_tpu_copies_what_is_tracked_and_installs_it(stage):
  stage.stub("gcloud", GCLOUD)
  home = pathlib.Path(stage.env["HOME"])
  checkout = home.with_name("checkout")
  (checkout / "launch").mkdir(parents=True)
  script = shutil.copy(LAUNCH / "tpu_pod.sh", checkout / "launch")
  (checkout / "a.py").write_text("old")
  (checkout / "b.py").write_text("to go")
  git = ["git", "-C", checkout, "-c", "user.name=x", "-c", "user.email=x@y"]
  for words in ("init -q", "add .", "commit -q -m x"):
    subprocess.run([*git, *words.split()], check=True)
  (checkout / "a.py").write_text("changed")
  (checkout / "b.py").unlink()
  (checkout / "untracked").touch()
  code, _, err = stage.run(script, "copy", "pod")
  assert code == 0, err
  assert (checkout / "a.py").read_text() == "changed"
  with tarfile.open(stage.record / "copied.tar.gz") as archive:
    files = {x.name for x in archive if x.isfile()}
  assert files == {"a.py", "launch/tpu_pod.sh"}

  copied, install = gcloud_calls(stage)
  archive = copied.pop(1)
  assert copied == ["scp", "pod:vgsgan.tar.gz", "--worker=all"]
  assert not pathlib.Path(archive).exists()
  assert install[:3] == ["ssh", "pod", "--worker=all"]
  shutil.copy(stage.record / "copied.tar.gz", home / "vgsgan.tar.gz")
  (home / "vgsgan").mkdir()
  (home / "vgsgan/stale.py").touch()
  (home / ".local/bin").mkdir(parents=True)
  stage.stub("uv", 'printf "%s\\n" "$@" >>$RECORD/uv.args')
  shutil.move(stage.folder / "uv", home / ".local/bin/uv")
  stage.stub("python3", 'printf "%s\\n" "$@" >>$RECORD/python3.args')
  command = f"cd {home} && {remote_command(install)}"
  assert stage.run("bash", "-c", command)[0] == 0
  assert (home / "vgsgan/a.py").read_text() == "changed"
  assert not (home / "vgsgan/stale.py").exists()
  assert stage.args("python3")[-1] == "uv"
  assert stage.args("uv")[-2:] == ["-e", "./vgsgan[tpu]"]
  assert '"tpu": [' in (ROOT / "setup.py").read_text()


def test_tpu_runs_on_every_worker_until_it_is_done(stage):
  stage.stub("gcloud", GCLOUD)
  workdir = stage.env["WORKDIR"] = f"{stage.record}/a b"
  mine = ["--config=c.py:a,b", f"--workdir={workdir}", "--config.x='*'"]
  assert stage.run(LAUNCH / "tpu_pod.sh", "run", "pod", *mine)[0] == 0
  (call,) = gcloud_calls(stage)
  assert call[:3] == ["ssh", "pod", "--worker=all"]

  home = pathlib.Path(stage.env["HOME"])
  (home / "vgsgan/launch").mkdir(parents=True)
  patched(home / "vgsgan/launch", "tpu_pod.sh", "PAUSE=10", "PAUSE=0")
  (home / "venv/bin").mkdir(parents=True)
  stage.stub(
    "python",
    'printf "%s\\n" "$@" >$RECORD/run.args; env >$RECORD/run.env\n'
    "echo >>$RECORD/starts; case $(wc -l <$RECORD/starts) in\n"
    '1) exit 143 ;; 2) mkdir -p "$WORKDIR/checkpoints/5"; kill -KILL $$ ;;\n'
    "3) exit 134 ;; 4) exit 134 ;; esac",
  )
  shutil.move(stage.folder / "python", home / "venv/bin/python")
  command = f"cd {home} && {remote_command(call)}"
  assert stage.run("bash", "-c", command)[0] == 0
  deadline = time.monotonic() + 30
  while "left with 0" not in (said := (home / "vgsgan.log").read_text()):
    assert time.monotonic() < deadline, said
    time.sleep(0.05)
  left = re.findall(r"left with (\d+)", said)
  assert left == ["143", "137", "134", "134", "0"]
  assert stage.args("run") == ["-m", "vgsgan.main", "--distributed", *mine]
  cache = stage.environment("run")["JAX_COMPILATION_CACHE_DIR"]
  assert cache == f"{workdir}/jax-cache"


def test_tpu_workers_whose_run_saves_nothing_end(stage):
  stage.stub(
    "python",
    "echo >>$RECORD/starts; n=$(wc -l <$RECORD/starts)\n"
    "((n > 2)) || mkdir -p $RECORD/w/arm-0/checkpoints/$n\n"
    "mkdir -p $RECORD/w/arm-0/checkpoints/7.tmp-$n; exit 134",
  )
  script = patched(stage.folder, "tpu_pod.sh", "PAUSE=10", "PAUSE=0")
  workdir = f"--workdir={stage.record}/w"
  code, said, _ = stage.run("bash", script, "loop", workdir)
  assert code == 134
  assert (stage.record / "starts").read_text().count("\n") == 2 + 3
  assert "3 times without a new checkpoint" in said.splitlines()[-1]


@pytest.mark.parametrize("status", [1, 2])
def test_tpu_does_not_repeat_mistakes(stage, status):
  stage.stub("python", f"echo >>$RECORD/starts; exit {status}")
  code, _, _ = stage.run(LAUNCH / "tpu_pod.sh", "loop", "--workdir=w")
  assert code == status
  assert (stage.record / "starts").read_text() == "\n"
