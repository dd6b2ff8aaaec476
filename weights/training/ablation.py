"""One part of the network is left out, to see what training does without it.

After the paper's Table 4. What is left out is chosen by name; a run without it keeps its state and
log under a name of its own and writes no sources.
"""

from torch import nn

from tinyv_cli.model.phi import PhiLanguage

PARTS = ("qk-norm", "post-norm", "input-norms", "lora")


def leave_out(language: PhiLanguage, part: str | None) -> None:
    """Takes norms out of every layer.

    Args:
        language: changed in place.
        part: `qk-norm` or `post-norm` (the added RMSNorm); others take nothing out.
    """
    names = {"qk-norm": ("q_layernorm", "k_layernorm"), "post-norm": ("post_layernorm",)}
    for module in list(language.modules()):
        for name in names.get(part or "", ()):
            if hasattr(module, name):
                setattr(module, name, nn.Identity())


def select_trained(trained: dict[str, nn.Parameter], part: str | None) -> dict[str, nn.Parameter]:
    """What is trained when `input-norms` or `lora` stay as they are."""
    ends = {"input-norms": ("input_layernorm.weight",), "lora": (".a", ".b")}
    left_out = {name for name in trained if name.endswith(ends.get(part or "", ()))}
    for name in left_out:
        trained[name].requires_grad_(False)
    return {name: each for name, each in trained.items() if name not in left_out}
