"""Scenes become the loss by which a vision tower and a Q-Former learn to see.

Each patch predicts kind, tint, box and group of the object that covers it. Each query token
predicts one word of `slots.py`; groups of six are matched to objects as a detector's queries are,
but an object prefers the group of its place from left to right. The heads are discarded afterwards.

Source: Carion et al., arXiv 2005.12872 (DETR), section 3.1, for the matching.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

from tinyv_cli.model.tinygptv import TinyGptV
from tinyv_cli.model.vision import VisionTower
from tinyv_cli.pictures.image import to_pixels
from tinyv_cli.spec import ModelSpec
from weights.reading.checkpoint import resize_positions
from weights.training.language.slots import (
    GROUP_SIZE,
    N_GROUPS,
    NOTHING_PLACE,
    NUMBERS,
    WORDS,
    list_object_places,
    list_scene_places,
    order_objects,
)
from weights.training.world.drawing import draw_scene
from weights.training.world.glyphs import Glyphs
from weights.training.world.placement import make_scene
from weights.training.world.scene import NOTHING, Scene, label_patches
from weights.training.world.splits import make_generator

_POSITIONS = "embeddings.position_embedding"
_NO_OBJECT_WEIGHT = 0.2  # most patches show none
_NO_GROUP_WEIGHT = 0.3  # of each of the six words of a group without an object
_BOX_WEIGHT = 5.0
_WORD_WEIGHT = 3.0
_ORDER_COST = 1.0  # of a group that is not an object's place from left to right
_NUMBER_SPREAD = 1.5  # hundredths: a number's neighbours are nearly right


@dataclass(frozen=True, eq=False)
class SceneLabels:
    """Labels that come with a scene.

    Attributes:
        owners: (N - 1) the object that covers each patch, rows from the top, or `NOTHING`.
        objects: (n, 6) places in `WORDS` of the objects' words.
        order: (n) the objects' places from left to right, as captions name them.
        whole: (2) places of the two words of the scene.
    """

    owners: Tensor
    objects: Tensor
    order: Tensor
    whole: Tensor


def label_scene(scene: Scene, grid: int) -> SceneLabels:
    """Reads labels off a scene for a tower of grid × grid patches."""
    return SceneLabels(
        owners=torch.from_numpy(label_patches(scene, grid).flatten()),
        objects=torch.tensor([list_object_places(each) for each in scene.objects]),
        order=torch.tensor(order_objects(scene)),
        whole=torch.tensor(list_scene_places(scene)),
    )


class SeeingHeads(nn.Module):
    """Linear maps from features and query tokens to words; only for learning to see."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.patch_kind = nn.Linear(spec.vision.width, len(WORDS))
        self.patch_group = nn.Linear(spec.vision.width, N_GROUPS)
        self.patch_rest = nn.Linear(spec.vision.width, (GROUP_SIZE - 1) * len(WORDS))
        self.word = nn.Linear(spec.qformer.width, len(WORDS))


@dataclass(frozen=True)
class SeeingOptions:
    """The pictures that are seen.

    Attributes:
        seed: of the scenes.
        batch: pictures a step.
        large_px: side of the large pictures, those of stage 4.
        large_from: the step from which every other step has large pictures, a quarter as many.
    """

    seed: int
    batch: int
    large_px: int
    large_from: int


def make_seeing_loss(
    model: TinyGptV, heads: SeeingHeads, glyphs: Glyphs, options: SeeingOptions
) -> Callable[[int], Tensor]:
    """Makes the loss of a step, as a `Trainer` wants it; scenes are drawn as they are needed."""
    vision = model.spec.vision

    def compute_step(step: int) -> Tensor:
        is_large = step >= options.large_from and step % 2 == 1
        image_px = options.large_px if is_large else vision.image_px
        batch = options.batch // 4 if is_large else options.batch
        scenes = []
        for number in range(step * options.batch, step * options.batch + batch):
            scenes.append(make_scene(make_generator("train", options.seed, number), "train"))
        pictures = [to_pixels(draw_scene(scene, image_px, glyphs), image_px) for scene in scenes]
        labels = [label_scene(scene, image_px // vision.patch_px) for scene in scenes]
        pixels = torch.from_numpy(np.concatenate(pictures)).to(heads.word.weight.device)
        return compute_seeing_loss(model, heads, pixels, labels)

    return compute_step


def see(vision: VisionTower, pixels: Tensor) -> Tensor:
    """Computes features of pictures of any side: (B, 3, S, S) → (B, N, Dv).

    Position embeddings are resized as they are when sources are read.
    """
    patch_px = vision.embeddings.patch_embedding.weight.shape[-1]
    n_tokens = 1 + (pixels.shape[-1] // patch_px) ** 2
    positions = resize_positions(vision.get_parameter(_POSITIONS), n_tokens)
    features: Tensor = torch.func.functional_call(vision, {_POSITIONS: positions}, (pixels,))
    return features


def compute_seeing_loss(
    model: TinyGptV, heads: SeeingHeads, pixels: Tensor, labels: Sequence[SceneLabels]
) -> Tensor:
    """Computes the loss of patches and words together.

    Args:
        model: vision tower and Q-Former are trained.
        heads: are trained with them.
        pixels: (B, 3, S, S), normalised; S may be another than the tower's.
        labels: B of them.
    """
    features = see(model.vision, pixels)  # (B, N, Dv)
    words = heads.word(model.qformer(features)).float()  # (B, 32, W)
    chances = words.softmax(-1)
    boxes = average_boxes(chances)  # (B, G, 4)
    pairs = zip(chances.detach().cpu(), boxes.detach().cpu(), labels, strict=True)
    groups = [match(*pair) for pair in pairs]
    patch_loss = compute_patch_loss(heads, features[:, 1:], labels, groups)
    return patch_loss + compute_word_loss(words, boxes, labels, groups)


def compute_patch_loss(
    heads: SeeingHeads, patches: Tensor, labels: Sequence[SceneLabels], groups: Sequence[Tensor]
) -> Tensor:
    """Computes the loss of the six words and the group of the object on each patch.

    Args:
        heads: predict them.
        patches: (B, N - 1, Dv).
        labels: B of them.
        groups: that each object is matched to.
    """
    device = patches.device
    nothing = torch.full((1, GROUP_SIZE), NOTHING_PLACE)
    assert NOTHING == -1, "the last row is for patches without an object"
    by_patch = [torch.cat([each.objects, nothing])[each.owners] for each in labels]  # (N - 1, 6)
    wanted = torch.stack(by_patch).flatten(0, 1).to(device)
    is_object = wanted[:, 0] != NOTHING_PLACE  # of B (N - 1) patches
    weights = torch.ones(len(WORDS), device=device)
    weights[NOTHING_PLACE] = _NO_OBJECT_WEIGHT
    kinds = heads.patch_kind(patches).float().flatten(0, 1)
    kind_loss = functional.cross_entropy(kinds, wanted[:, 0], weights)
    patches, wanted = patches.flatten(0, 1)[is_object], wanted[is_object, 1:]  # (M, Dv), (M, 5)
    rest = heads.patch_rest(patches).float().unflatten(1, (GROUP_SIZE - 1, -1))
    rest_loss = functional.cross_entropy(
        rest.flatten(0, 1), _make_targets(device)[wanted.flatten()]
    )
    edges = average_numbers(rest[:, 1:].softmax(-1))  # (M, 4)
    edge_loss = functional.l1_loss(edges, wanted[:, 1:] / 100)
    owners = [group[each.owners] for group, each in zip(groups, labels, strict=True)]
    group_loss = functional.cross_entropy(
        heads.patch_group(patches).float(), torch.cat(owners).to(device)[is_object]
    )
    return kind_loss + rest_loss + _BOX_WEIGHT * edge_loss + group_loss


def compute_word_loss(
    words: Tensor, boxes: Tensor, labels: Sequence[SceneLabels], groups: Sequence[Tensor]
) -> Tensor:
    """Computes the cross-entropy of each query token's word, and how far the mean boxes are off.

    Args:
        words: (B, 32, W) logits over `WORDS`.
        boxes: (B, G, 4), as `average_boxes` has them.
        labels: B of them.
        groups: that each object is matched to.
    """
    wanted = torch.full(words.shape[:2], NOTHING_PLACE)
    weights = torch.full(words.shape[:2], _NO_GROUP_WEIGHT)
    weights[:, :2] = 1.0
    box_losses = []
    for i, (each, matched) in enumerate(zip(labels, groups, strict=True)):
        wanted[i, :2] = each.whole
        wanted[i, 2:].view(N_GROUPS, GROUP_SIZE)[matched] = each.objects
        weights[i, 2:].view(N_GROUPS, GROUP_SIZE)[matched] = 1.0
        edges = each.objects[:, 2:].to(boxes.device) / 100
        box_losses.append((boxes[i, matched] - edges).abs().flatten())
    targets = _make_targets(words.device)[wanted.flatten()]
    losses = functional.cross_entropy(words.flatten(0, 1), targets, reduction="none")
    weights = weights.to(words.device)
    word_loss = (losses * weights.flatten()).sum() / weights.sum()
    return _WORD_WEIGHT * word_loss + _BOX_WEIGHT * torch.cat(box_losses).mean()


@cache
def _make_targets(device: torch.device) -> Tensor:
    """Makes the wanted distribution of each word, (W, W); numbers lend some to neighbours."""
    targets = torch.eye(len(WORDS))
    numbers = torch.arange(NUMBERS.stop)
    apart = (numbers[:, None] - numbers).float() / _NUMBER_SPREAD
    targets[NUMBERS, NUMBERS] = (-0.5 * apart.square()).softmax(-1)
    return targets.to(device)


def match(chances: Tensor, boxes: Tensor, labels: SceneLabels) -> Tensor:
    """Matches each object of a scene to the group that predicts it best, all of them together.

    Args:
        chances: (32, W) probabilities over `WORDS`.
        boxes: (G, 4), as `average_boxes` has them.
        labels: of the scene, n objects.

    Returns:
        (n) groups.
    """
    kinds = chances[2::GROUP_SIZE, labels.objects[:, 0]]  # (G, n)
    distances = torch.cdist(boxes, labels.objects[:, 2:] / 100, p=1)  # (G, n)
    is_elsewhere = torch.arange(N_GROUPS)[:, None] != labels.order  # (G, n)
    costs = _BOX_WEIGHT / 4 * distances - kinds + _ORDER_COST * is_elsewhere
    _, groups = linear_sum_assignment(costs.T.numpy())  # its rows are in order
    return torch.from_numpy(groups)


def average_boxes(chances: Tensor) -> Tensor:
    """Computes the mean box of each group: (B, 32, W) probabilities → (B, G, 4), 0-1."""
    groups = chances[:, 2:].view(len(chances), N_GROUPS, GROUP_SIZE, -1)
    return average_numbers(groups[:, :, 2:])


def average_numbers(chances: Tensor) -> Tensor:
    """Computes the mean of predicted numbers: (…, W) probabilities → (…), 0-1."""
    numbers = chances[..., NUMBERS]
    places = torch.arange(NUMBERS.stop, dtype=chances.dtype, device=chances.device)
    mean = numbers @ places
    return mean / numbers.sum(-1).clamp_min(1e-6) / 100
