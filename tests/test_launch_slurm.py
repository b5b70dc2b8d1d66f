"""`launch/slurm.sbatch`, and where JAX finds SLURM's processes."""

import os
import signal

import pytest
from jax._src import clusters  # Where JAX finds the cluster it is in.

from tests.launch_stage import LAUNCH, SAVES, WAITS, free_port

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
