"""The scores and objectives of grounding in PyTorch."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from vgsgan.losses.objectives import MAX_LOGIT_SCALE


def score(
  kind: str,
  images: torch.Tensor,
  audio: torch.Tensor,
  valid: torch.Tensor,
  normalize: bool,
) -> torch.Tensor:
  """`losses.scores.score`, of [b, d, h, w], [c, d, t] and [c, t]: [b, c]."""
  if normalize:
    images, audio = (_unit(x) for x in (images, audio))
  if kind in ("dot", "cosine", "sisa"):
    image = images.mean((2, 3))
    clip = _mean_valid(audio, valid[:, None])
    if kind == "cosine":
      image, clip = _unit(image), _unit(clip)
    return image @ clip.T
  b, d, h, w = images.shape
  c, _, t = audio.shape
  places = images.permute(0, 2, 3, 1).reshape(b * h * w, d)
  frames = audio.transpose(1, 2).reshape(c * t, d)
  maps = (places @ frames.T).view(b, h * w, c, t)
  if kind == "misa":
    return _mean_valid(maps.amax(1), valid)
  best = torch.where(valid, maps, -math.inf).amax(-1)
  return torch.where(valid.any(-1), best, 0.0).mean(1)


def _unit(x: torch.Tensor, shortest: float = 1e-6) -> torch.Tensor:
  """`scores.l2_normalize` of the axis 1."""
  squared = x.square().sum(1, keepdim=True)
  long = squared > shortest**2
  scale = torch.rsqrt(torch.where(long, squared, 1.0))
  return x * torch.where(long, scale, 0.0)


def _mean_valid(x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
  count = valid.sum(-1).clamp(min=1)
  return torch.where(valid, x, 0.0).sum(-1) / count


def info_nce(
  scores: torch.Tensor, impostors: torch.Tensor, log_scale: torch.Tensor
) -> torch.Tensor:
  """`objectives.info_nce` in both directions, of [b, b]: [b]."""
  excess = F.relu(log_scale - math.log(MAX_LOGIT_SCALE))
  logits = scores * torch.exp(log_scale - excess.detach())
  positive = logits.diagonal()
  # The diagonal, which holds the partners, stays in the sum.
  own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
  logits = torch.where(impostors | own, logits, -math.inf)
  both = logits.logsumexp(1) + logits.logsumexp(0)
  return 0.5 * both - positive


def triplet(
  scores: torch.Tensor,
  impostors: torch.Tensor,
  noise: torch.Tensor,
  negatives: Sequence[str],
  margin: float,
) -> torch.Tensor:
  """`objectives.triplet` in both directions: [b]; `noise` is [2, b, b]."""
  return sum(
    _rank(rows, impostors, noise[i], kind, margin)
    for i, rows in enumerate((scores, scores.T))
    for kind in negatives
  )


def _rank(rows, impostors, noise, kind: str, margin: float):
  """`primitives.margin_rank`; each row's partner is on the diagonal."""
  positive = rows.diagonal()
  if kind == "all":
    hinge = F.relu(margin + rows - positive[:, None])
    count = impostors.sum(1).clamp(min=1)
    return torch.where(impostors, hinge, 0.0).sum(1) / count
  order = noise if kind == "sampled" else rows.detach()
  if kind == "semi_hard":
    impostors = impostors & (rows < positive[:, None])
  chosen = torch.where(impostors, order, -math.inf).argmax(1, keepdim=True)
  hinge = F.relu(margin + rows.gather(1, chosen)[:, 0] - positive)
  return torch.where(impostors.any(1), hinge, 0.0)
