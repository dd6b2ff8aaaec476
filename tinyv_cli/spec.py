"""The model's numbers, frozen.

Letters for dimensions, used in shape comments throughout:

    B  pictures or prompts in a batch      S  picture side in pixels
    N  vision tokens, 1 + (S / patch)²     Q  query tokens (32)
    T  positions of a prompt               C  positions in the cache
    V  vocabulary                          H  heads
    D  width of the part at hand           F  MLP width
    K  columns of a matrix (inputs)        G  groups along K

Source: arXiv 2312.16862 and the published configuration files; the values are the defaults of the
classes below.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class VisionSpec:
    """The EVA-CLIP ViT that turns pixels into features."""

    image_px: int = 448
    patch_px: int = 14
    width: int = 1408
    n_layers: int = 39
    n_heads: int = 16
    mlp_width: int = 6144
    eps: float = 1e-6
    ln_vision_eps: float = 1e-5

    @property
    def n_patches(self) -> int:
        """Returns the number of patches in a picture."""
        return (self.image_px // self.patch_px) ** 2

    @property
    def n_tokens(self) -> int:
        """Returns the number of features of a picture: the class token, then one a patch."""
        return 1 + self.n_patches

    @property
    def head_width(self) -> int:
        """Returns the channels of one attention head."""
        return self.width // self.n_heads


@dataclass(frozen=True)
class QFormerSpec:
    """BLIP-2's Q-Former, which turns features into query tokens."""

    width: int = 768
    n_layers: int = 12
    n_heads: int = 12
    mlp_width: int = 3072
    n_queries: int = 32
    cross_attention_every: int = 2
    eps: float = 1e-12

    @property
    def head_width(self) -> int:
        """Returns the channels of one attention head."""
        return self.width // self.n_heads

    def has_cross_attention(self, layer: int) -> bool:
        """Checks whether a layer attends to the features."""
        return layer % self.cross_attention_every == 0


@dataclass(frozen=True)
class LanguageSpec:
    """Phi-2 with TinyGPT-V's three added norms."""

    width: int = 2560
    n_layers: int = 32
    n_heads: int = 32
    mlp_width: int = 10240
    vocab_size: int = 51200
    context_length: int = 2048
    rotary_width: int = 32
    rope_base: float = 10000.0
    eps: float = 1e-5
    post_norm_eps: float = 1e-6

    @property
    def head_width(self) -> int:
        """Returns the channels of one attention head."""
        return self.width // self.n_heads


@dataclass(frozen=True)
class ModelSpec:
    """All of TinyGPT-V at one stage of its training."""

    stage: int = 4
    vision: VisionSpec = VisionSpec()
    qformer: QFormerSpec = QFormerSpec()
    projection_width: int = 4096
    language: LanguageSpec = LanguageSpec()


def image_px_of_stage(stage: int) -> int:
    """Returns the side of the square picture that a stage was trained on, in pixels."""
    return 448 if stage == 4 else 224


def make_full_spec(stage: int) -> ModelSpec:
    """Makes the numbers of TinyGPT-V at its published size."""
    return ModelSpec(stage=stage, vision=VisionSpec(image_px=image_px_of_stage(stage)))


def make_tiny_spec(stage: int) -> ModelSpec:
    """Makes numbers so small that a test takes milliseconds; head widths are the real ones."""
    return replace(
        make_full_spec(stage),
        vision=VisionSpec(
            image_px=image_px_of_stage(stage), width=176, n_layers=2, n_heads=2, mlp_width=384
        ),
        qformer=QFormerSpec(width=64, n_layers=2, n_heads=2, mlp_width=128),
        projection_width=96,
        language=LanguageSpec(width=160, n_layers=2, n_heads=2, mlp_width=640, vocab_size=512),
    )
