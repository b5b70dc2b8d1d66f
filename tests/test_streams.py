"""Nobody has to read what a program says, and it ends as if somebody did."""

import errno
import io
import os
import pathlib
import pty
import subprocess
import sys

import pytest
import tqdm

from vgsgan.common import streams
from vgsgan.train import logbook

ROOT = pathlib.Path(__file__).parents[1]


def abandoned_pipe():
  read, write = os.pipe()
  os.close(read)
  return os.fdopen(write, "w", buffering=1)


def closed_terminal():
  leader, terminal = pty.openpty()
  os.close(leader)
  return os.fdopen(terminal, "w", buffering=1)


@pytest.mark.parametrize("unread", [abandoned_pipe, closed_terminal])
def test_output_without_a_reader_is_dropped(unread, tmp_path):
  with unread() as plain:
    with pytest.raises(OSError):
      plain.write("once\n")
    number = plain.fileno()
    stream = streams.Lasting(plain)
    print("twice", file=stream, flush=True)
    # Native code and Python's flush at exit use the descriptor itself.
    assert os.readlink(f"/proc/self/fd/{number}") == os.devnull
    os.write(number, b"three times")
    with tqdm.tqdm(total=2, file=stream) as bar:
      bar.update()
      tqdm.tqdm.write("four times", file=stream)
    with logbook.Logbook(tmp_path, stream=stream) as log:
      with log.status("waiting"), log.bar("train", 0, 2):
        log.write(1, "train", {"loss": 1.0})
  stream.write("after it is closed")
  stream.flush()
  assert not stream.isatty()


def test_writes_continue_after_a_passing_error():
  class Full(io.StringIO):
    def write(self, text):
      raise OSError(errno.ENOSPC, "full")

  plain = Full()
  stream = streams.Lasting(plain)
  stream.write("lost")
  plain.write = lambda text: io.StringIO.write(plain, text)
  stream.write("kept")
  assert plain.getvalue() == "kept"


def test_characters_outside_the_encoding_are_escaped():
  plain = io.TextIOWrapper(io.BytesIO(), "ascii", write_through=True)
  streams.Lasting(plain).write("chat noir, кот\n")
  assert plain.buffer.getvalue() == b"chat noir, \\u043a\\u043e\\u0442\n"


def ends(code, redirection, tmp_path):
  """The exit status of a program and what it says where it can."""
  program = f"""
import os, signal, sys
from vgsgan.common import commands
from vgsgan.common.errors import UserError
from vgsgan.parallel import preemption, processes
def main(argv):
  {code}
commands.start(main, lambda _: None, ["program"])
"""
  (tmp_path / "program.py").write_text(program)
  # bash, whose `(exit)` tells the status of the first of a pipeline.
  line = f'{{ "$0" program.py; echo $? >status; }} {redirection}'
  ended = subprocess.run(
    ["bash", "-c", line, sys.executable],
    cwd=tmp_path,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
    timeout=60,
  )
  return int((tmp_path / "status").read_text()), ended.stdout + ended.stderr


# Waits until the reader of standard output has ended.
ABANDONED = (
  "import select; pipe = select.poll(); pipe.register(1, 0); "
  "assert pipe.poll(30_000)"
)
UNREAD = ("| true", "2>&1 | true", ">&-", "2>&-", "<&- >&- 2>&-")


@pytest.mark.parametrize("redirection", UNREAD)
def test_the_exit_status_does_not_depend_on_readers(tmp_path, redirection):
  say = "print('x' * 9); print('x', file=sys.stderr)"
  wait = ABANDONED if "true" in redirection else "pass"
  code = f"{wait}; {say}; open('made', 'w').write('whole'); {say}"
  code += "; os.write(2, b'native'); raise UserError('one line')"
  status, said = ends(code, redirection, tmp_path)
  assert status == 2
  assert (tmp_path / "made").read_text() == "whole"
  assert "Error" not in said and "ignored" not in said
  status, said = ends(f"{wait}; {say}", redirection, tmp_path)
  assert status == 0 and "ignored" not in said


def test_say_drops_lines_without_a_reader(tmp_path):
  code = f"{ABANDONED}; stop = preemption.Preemption(); "
  code += "stop.install(); os.kill(os.getpid(), signal.SIGHUP); "
  code += "assert stop.reached(); processes._leave('gone', stop.exit_code)"
  assert ends(code, "2>&1 | true", tmp_path) == (129, "")
