"""Tests what a run shows in real terminals of several widths."""

import fcntl
import io
import os
import pty
import re
import struct
import termios
import threading

import pytest

from vgsgan.train import evaluation, terminal
from vgsgan.train.logbook import Logbook

NAMES = ("change", "edited", "edits", "grad_norm", "impostor", "learning_rate")
FIGURES = dict.fromkeys(NAMES, 0.55478) | {"loss": 2.3125}


class Screen:
  """A terminal, and all that is written to it."""

  def __init__(self, columns):
    self._leader, follower = pty.openpty()
    size = struct.pack("HHHH", 24, columns, 0, 0)
    fcntl.ioctl(follower, termios.TIOCSWINSZ, size)
    self.stream = os.fdopen(follower, "w", buffering=1)
    self._read = b""
    self._reader = threading.Thread(target=self._collect)
    self._reader.start()

  def _collect(self):
    try:
      while data := os.read(self._leader, 4096):
        self._read += data
    except OSError:
      pass  # The other end is closed.

  def close(self):
    """All that was drawn, a line or a drawing of a line each."""
    self.stream.close()
    self._reader.join()
    os.close(self._leader)
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", self._read.decode())
    return [line.rstrip() for line in re.split(r"[\r\n]+", text)]


@pytest.mark.parametrize("columns", [80, 120])
def test_the_line_starts_with_the_loss_and_the_bar_has_room(columns, tmp_path):
  screen = Screen(columns)
  with Logbook(tmp_path, stream=screen.stream) as log:
    with log.bar("train", 12000, 30000) as bar:
      bar.update(15000)
      log.write(15000, "train", FIGURES)
      with log.status("evaluating on validation"):
        pass
      log.info("a line")
      log.write(15000, "validation", {"r": 0.5})
  drawn = screen.close()
  assert max(map(len, drawn)) <= columns
  assert {"a line", "step 15000/30000 validation r 0.5"} <= set(drawn)
  bars = [line for line in drawn if "|" in line]
  assert bars[0].startswith("train 12000/30000 |")
  waiting = [x for x in bars if x.startswith("evaluating on validation |")]
  shown = [line for line in bars if line.startswith("loss 2.312 train 15000/")]
  assert shown and waiting
  for line in shown + waiting + bars[:1]:
    room = len(re.search(r"\|(.*)\|", line)[1])
    assert room >= 15 and "steps/s" in line
  others = re.findall(r"left, (.*)$", shown[-1])
  # Whole figures, as many as there is room for.
  assert len(others) == (columns == 120)
  if others:
    assert others[0].startswith("change 0.5548, edited 0.5548")


def test_a_terminal_of_unknown_width_gets_plain_lines(tmp_path):
  screen = Screen(0)
  with Logbook(tmp_path, stream=screen.stream) as log:
    with log.bar("train", 0, 300) as bar:
      bar.update(100)
      log.write(100, "train", FIGURES)
      with log.status("evaluating"):
        pass
  drawn = screen.close()
  assert not any("|" in line for line in drawn)
  assert drawn[0].startswith("step 100/300 train loss 2.312 change 0.5548 ")
  assert drawn[1] == "evaluating ..."


def test_the_rate_excludes_time_outside_steps():
  bar = terminal.Bar("train", 0, 100, io.StringIO(), False)
  bar._since -= 15.0  # as if begun 15 seconds ago,
  bar.idle = 10.0  # 10 of them spent on evaluation
  assert bar.rate(10) == " 2 steps/s, 00:45 left"
  bar.close()


def test_figures_without_a_chance_are_shown_at_the_end():
  results = {
    "frechet": {"value": 1.5, "real": 0.25},
    "drawn": {"share": {"value": 0.5, "chance": 0.125}, "count": 3},
  }
  found = dict(evaluation.sections(results))
  assert set(found) == {"all", "drawn"}
  assert evaluation.in_words(found["all"]["frechet"]) == "1.5 (real 0.25)"
  assert evaluation.in_words(found["drawn"]["share"]) == "0.5 (chance 0.125)"
