#!/usr/bin/env bash
# The maximum and minimum of an array that is spread over CPU devices lose a NaN.
#
# What it does: takes `jnp.max`, `jnp.min` and `jnp.sum` of 32 float32 numbers,
#   one of them NaN, on one CPU device and spread over eight, which
#   `--xla_force_host_platform_device_count` makes of one machine; then of 32 NaNs.
# Seen: on one device all three are NaN. Spread, the maximum and minimum are
#   numbers: those of the devices without the NaN (numbers beside it are lost too),
#   and -inf and inf where all are NaN. The sum is NaN. `jax.lax.pmax` is the same.
# Expected: NaN each time. The numbers of an array do not depend on its sharding,
#   and `jnp.max` hands on NaN as NumPy's does.
# Why it matters: tests of multi-device programs run on such devices. A check of
#   the form "the largest absolute gradient is finite" passes there although one is
#   NaN; `jnp.isnan(x).any()` and sums tell.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --no-compile \
  jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6

cd "$work"
JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=8 \
  "$work/venv/bin/python" - <<'PY'
import sys

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

print("jax", jax.__version__, "jaxlib", jaxlib.__version__, jax.device_count(), "CPUs")

mesh = jax.make_mesh((8,), ("devices",))
spread = NamedSharding(mesh, PartitionSpec("devices"))
pmax = jax.shard_map(
  lambda part: jax.lax.pmax(part.max(), "devices"),
  mesh=mesh,
  in_specs=PartitionSpec("devices"),
  out_specs=PartitionSpec(),
)

one_nan = np.arange(32, dtype=np.float32)
one_nan[30] = np.nan  # On the last device, beside 28, 29 and 31.
seen = {}
for name, numbers in (("one NaN", one_nan), ("all NaN", one_nan * np.nan)):
  for place in (jax.devices()[0], spread):
    x = jax.device_put(numbers, place)
    where = "spread" if place is spread else "one device"
    for of in (jnp.max, jnp.min, jnp.sum):
      seen[name, where, of.__name__] = float(of(x))
  seen[name, "spread", "pmax"] = float(pmax(x))

for what, value in seen.items():
  print(*what, "=", value)
print("expected: nan in each line")

numbers = {what: value for what, value in seen.items() if not np.isnan(value)}
changed = numbers != {
  ("one NaN", "spread", "max"): 27.0,
  ("one NaN", "spread", "min"): 0.0,
  ("one NaN", "spread", "pmax"): 27.0,
  ("all NaN", "spread", "max"): -np.inf,
  ("all NaN", "spread", "min"): np.inf,
  ("all NaN", "spread", "pmax"): -np.inf,
}
sys.exit("CHANGED: this is no longer what is described above" if changed else 0)
PY
