"""`launch/tpu_pod.sh`, with a stub for gcloud."""

import pathlib
import re
import shutil
import signal
import subprocess
import tarfile
import time

import pytest

from tests.launch_stage import LAUNCH, ROOT, SAVES, WAITS, patched

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


def test_tpu_stop_ends_what_run_started_and_nothing_else(stage):
  stage.stub("gcloud", GCLOUD)
  home = pathlib.Path(stage.env["HOME"])
  (home / "vgsgan").mkdir()
  shutil.copytree(LAUNCH, home / "vgsgan/launch")
  stage.stub("python", f"id=run; {SAVES} {WAITS}")
  bystander = subprocess.Popen(["sleep", "60"])
  # Another's run by its command line, and a number that was used before.
  line = ["bash", "-c", "read -r", "vgsgan.main", "launch/tpu_pod.sh loop"]
  lookalike = subprocess.Popen(line, stdin=subprocess.PIPE)
  try:
    (home / "vgsgan.pid").write_text(f"{bystander.pid} 1\n")
    script = home / "vgsgan/launch/tpu_pod.sh"
    loop = stage.start("bash", script, "loop", f"--workdir={stage.record}/w")
    stage.wait_for("run.up")
    code, _, err = stage.run("bash", script, "loop", "--workdir=other")
    assert code == 2 and "a run is going on here: stop it first" in err

    assert stage.run(LAUNCH / "tpu_pod.sh", "stop", "pod")[0] == 0
    (call,) = gcloud_calls(stage)
    assert "--worker=all" in call
    command = f"cd {home} && {remote_command(call)}"
    assert stage.run("bash", "-c", command)[0] == 0
    stage.wait_for("run.saved")
    loop.communicate(timeout=30)
    assert loop.returncode == -signal.SIGKILL
    code, out, _ = stage.run("bash", "-c", command)
    assert code == 0 and "no run is going on here" in out
    assert bystander.poll() is None and lookalike.poll() is None
  finally:
    for process in (bystander, lookalike):
      process.kill()
      process.communicate()


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
