#!/usr/bin/env bash
# A staircase schedule of optax, compiled, decays one update late for some lengths.
#
# What it does: asks `optax.exponential_decay(1.0, n, 0.5, staircase=True)` at
#   count n for its value, eagerly and under `jax.jit`, for n from 1 to 60; then
#   lets `optax.sgd` with n = 41 take updates, and reads the learning rate.
# Seen: on a CPU, n = 41, 47 and 55 still give 1.0 when compiled; the rate falls at
#   count 42 for n = 41. Not compiled, all fall at n. The product below names the
#   three, and says the same of 135 lengths up to 1000: about one in seven.
# Expected: 0.5 for each n, compiled or not. The docstring says that with
#   `staircase` the quotient "is an integer division".
# Why: the quotient is one of floats, rounded down. XLA multiplies by the
#   reciprocal of a constant divisor, and 41 * float32(1 / 41) is less than 1.
# Why it matters: updates are compiled in practice, so a rate falls late without
#   a sign, and an eager look at the same schedule shows it right. `count // n` is
#   exact in both.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --no-compile \
  jax==0.10.2 jaxlib==0.10.2 optax==0.2.8 numpy==2.4.6

cd "$work"
JAX_PLATFORMS=cpu XLA_FLAGS='' "$work/venv/bin/python" - <<'PY'
import sys

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import optax

print("jax", jax.__version__, "jaxlib", jaxlib.__version__, "optax", optax.__version__)

lengths = range(1, 61)
late = {"eager": [], "compiled": [], "compiled //": []}
for n in lengths:
  schedule = optax.exponential_decay(1.0, n, 0.5, staircase=True)
  for name, form in (("eager", schedule), ("compiled", jax.jit(schedule))):
    if form(jnp.int32(n)) != 0.5:
      late[name].append(n)
for n in late["compiled"]:
  if jax.jit(lambda count, n=n: 0.5 ** (count // n))(jnp.int32(n)) != 0.5:
    late["compiled //"].append(n)

# What float32 says of a product with the reciprocal, without JAX.
one = np.float32(1)
predicted = [n for n in range(1, 1001) if np.float32(n) * (one / np.float32(n)) < one]


def falls_at(n, compile_it):
  """The count of the first update with a rate below 1."""
  optimiser = optax.sgd(optax.exponential_decay(1.0, n, 0.5, staircase=True))
  update = jax.jit(optimiser.update) if compile_it else optimiser.update
  state = optimiser.init(jnp.float32(0))
  for count in range(2 * n):
    step, state = update(jnp.float32(1), state)
    if -step < 1:
      return count


falls = {"eager": falls_at(41, False), "compiled": falls_at(41, True)}
for name, found in late.items():
  print(f"late at their first fall, {name}: {found}")
print("of n up to 1000, a product below 1:", len(predicted))
print("optax.sgd, 41 updates a stair, the rate falls at count:", falls)
print("expected: none late, and a fall at 41 both times")

changed = (
  late != {"eager": [], "compiled": [41, 47, 55], "compiled //": []}
  or predicted[:3] != [41, 47, 55]
  or len(predicted) != 135
  or falls != {"eager": 41, "compiled": 42}
)
sys.exit("CHANGED: this is no longer what is described above" if changed else 0)
PY
