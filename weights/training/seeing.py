"""A vision tower and a Q-Former learn what scenes give for free: patches, kinds, boxes, colours.

Each patch tells which kind covers it. Query tokens are taught as a detector's are: each object is
matched to the query that tells it best, every other query says that it has none. The heads are
thrown away afterwards.

Source: Carion et al., arXiv 2005.12872 (DETR), section 3.1, for matching and losses.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

from tinyv_cli.image import to_pixels
from tinyv_cli.model.tinygptv import TinyGptV
from tinyv_cli.spec import ModelSpec
from weights.training.colours import BACKGROUND_COLOURS, OBJECT_COLOURS
from weights.training.drawing import draw_scene
from weights.training.glyphs import Glyphs
from weights.training.kinds import KINDS
from weights.training.placement import make_scene
from weights.training.scene import NOTHING, Scene, label_patches
from weights.training.splits import make_generator

_KIND_NUMBERS = {kind.name: i for i, kind in enumerate(KINDS)}
_NO_KIND = len(KINDS)
_TINT_NUMBERS: dict[str | None, int] = {None: 0} | {c: i for i, c in enumerate(OBJECT_COLOURS, 1)}
_BACKGROUND_NUMBERS = {colour: i for i, colour in enumerate(BACKGROUND_COLOURS)}
_NO_KIND_WEIGHT = 0.1  # most queries have no object
_BACKGROUND_PATCH_WEIGHT = 0.2  # most patches show none
_BOX_WEIGHT = 5.0


@dataclass(frozen=True, eq=False)
class SceneLabels:
    """What a scene gives for free.

    Attributes:
        patches: (N - 1) kinds by patch, rows from the top.
        kinds: (n) kinds of its objects.
        tints: (n) their tints.
        boxes: (n, 4) left, top, right, bottom, 0-1.
        background: its colour.
    """

    patches: Tensor
    kinds: Tensor
    tints: Tensor
    boxes: Tensor
    background: int


def label_scene(scene: Scene, grid: int) -> SceneLabels:
    """Reads labels off a scene for a tower of grid × grid patches."""
    kinds = [_KIND_NUMBERS[each.kind] for each in scene.objects]
    owners = label_patches(scene, grid).flatten()
    patches = np.where(owners == NOTHING, _NO_KIND, np.array(kinds)[owners])
    return SceneLabels(
        patches=torch.from_numpy(patches),
        kinds=torch.tensor(kinds),
        tints=torch.tensor([_TINT_NUMBERS[each.colour] for each in scene.objects]),
        boxes=torch.tensor([each.box for each in scene.objects]),
        background=_BACKGROUND_NUMBERS[scene.background.colour],
    )


class SeeingHeads(nn.Module):
    """What is asked of features and query tokens while they learn to see."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        width = spec.qformer.width
        self.patch = nn.Linear(spec.vision.width, len(KINDS) + 1)
        self.kind = nn.Linear(width, len(KINDS) + 1)
        self.tint = nn.Linear(width, len(_TINT_NUMBERS))
        self.box = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 4))
        self.background = nn.Linear(width, len(BACKGROUND_COLOURS))


def make_seeing_loss(
    model: TinyGptV, heads: SeeingHeads, glyphs: Glyphs, seed: int, batch: int
) -> Callable[[int], Tensor]:
    """The loss of a step, as a `Trainer` wants it; scenes are drawn as they are needed."""
    image_px = model.spec.vision.image_px
    grid = image_px // model.spec.vision.patch_px

    def compute_step(step: int) -> Tensor:
        scenes = []
        for number in range(step * batch, (step + 1) * batch):
            scenes.append(make_scene(make_generator("train", seed, number), "train"))
        pictures = [to_pixels(draw_scene(scene, image_px, glyphs), image_px) for scene in scenes]
        labels = [label_scene(scene, grid) for scene in scenes]
        return compute_seeing_loss(model, heads, torch.from_numpy(np.concatenate(pictures)), labels)

    return compute_step


def compute_seeing_loss(
    model: TinyGptV, heads: SeeingHeads, pixels: Tensor, labels: Sequence[SceneLabels]
) -> Tensor:
    """Patches, matched queries and the background's colour together.

    Args:
        model: vision tower and Q-Former are trained.
        heads: are trained with them.
        pixels: (B, 3, S, S), normalised.
        labels: B of them.
    """
    features = model.vision(pixels)  # (B, N, Dv)
    tokens = model.qformer(features)  # (B, Q, Dq)
    weights = torch.ones(len(KINDS) + 1)
    weights[_NO_KIND] = _BACKGROUND_PATCH_WEIGHT
    wanted = torch.stack([each.patches for each in labels])
    patches = heads.patch(features[:, 1:]).float()
    patch_loss = functional.cross_entropy(patches.flatten(0, 1), wanted.flatten(), weights)
    backgrounds = torch.tensor([each.background for each in labels])
    background_loss = functional.cross_entropy(
        heads.background(tokens.mean(1)).float(), backgrounds
    )
    return patch_loss + background_loss + _compute_query_loss(heads, tokens, labels)


def _compute_query_loss(
    heads: SeeingHeads, tokens: Tensor, labels: Sequence[SceneLabels]
) -> Tensor:
    """Kinds of all queries; tints and boxes of matched ones."""
    kinds, tints = heads.kind(tokens).float(), heads.tint(tokens).float()  # (B, Q, …)
    boxes = heads.box(tokens).float().sigmoid()  # (B, Q, 4)
    matches = [match(kinds[i], boxes[i], each) for i, each in enumerate(labels)]
    wanted = torch.full(kinds.shape[:2], _NO_KIND)
    for row, (queries, objects), each in zip(wanted, matches, labels, strict=True):
        row[queries] = each.kinds[objects]
    weights = torch.ones(kinds.shape[-1])
    weights[_NO_KIND] = _NO_KIND_WEIGHT
    kind_loss = functional.cross_entropy(kinds.flatten(0, 1), wanted.flatten(), weights)
    found = [(i, queries) for i, (queries, _) in enumerate(matches)]
    matched_tints = torch.cat([tints[i, queries] for i, queries in found])
    matched_boxes = torch.cat([boxes[i, queries] for i, queries in found])
    pairs = list(zip(matches, labels, strict=True))
    wanted_tints = torch.cat([each.tints[objects] for (_, objects), each in pairs])
    wanted_boxes = torch.cat([each.boxes[objects] for (_, objects), each in pairs])
    tint_loss = functional.cross_entropy(matched_tints, wanted_tints)
    return kind_loss + tint_loss + _BOX_WEIGHT * functional.l1_loss(matched_boxes, wanted_boxes)


@torch.no_grad()
def match(kinds: Tensor, boxes: Tensor, labels: SceneLabels) -> tuple[Tensor, Tensor]:
    """Gives each object of a scene the query that tells it best, all of them together.

    Args:
        kinds: (Q, kinds + 1) logits.
        boxes: (Q, 4).
        labels: of the scene, n objects.

    Returns:
        (n) queries and (n) objects.
    """
    chances = kinds.softmax(-1)[:, labels.kinds]  # (Q, n)
    distances = torch.cdist(boxes, labels.boxes, p=1)  # (Q, n)
    queries, objects = linear_sum_assignment((_BOX_WEIGHT / 4 * distances - chances).numpy())
    return torch.from_numpy(queries), torch.from_numpy(objects)
