"""`launch/local.sh`, with stubs and with real processes."""

import re
import signal
import time

import pytest

from tests.launch_stage import LAUNCH, SAVES, WAITS, patched


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
    # The program's own is for one kind of CPU.
    assert "JAX_COMPILATION_CACHE_DIR" not in stage.environment(i)
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
  # On a busy machine the one passed on may be late.
  script = patched(stage.folder, "local.sh", "+ 1000000", "+ 3000000")
  process = stage.start(script, "2", "--workdir=w")
  stage.wait_for("0.up", "1.up")
  process.send_signal(signal.SIGTERM)
  said = process.stderr.readline()
  process.send_signal(signal.SIGTERM)  # Passed on by another launcher.
  assert "saving after this step, then leaving; again to leave at once" in said
  stage.wait_for("0.saved", "1.saved")
  time.sleep(3.5)
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
