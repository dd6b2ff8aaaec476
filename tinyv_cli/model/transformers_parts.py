"""transformers' parts that the network is made of; all code imports them here.

transformers imports huggingface_hub, whose settings are read from the environment at that moment:
one that cannot be used must not stop a network that is computed on this computer.
"""

from tinyv_cli.network.settings import without_unusable_hub_settings

with without_unusable_hub_settings():
    from transformers.models.blip_2.configuration_blip_2 import (
        Blip2QFormerConfig,
        Blip2VisionConfig,
    )
    from transformers.models.blip_2.modeling_blip_2 import (
        Blip2EncoderLayer,
        Blip2QFormerModel,
        Blip2VisionEmbeddings,
    )
    from transformers.models.phi.configuration_phi import PhiConfig
    from transformers.models.phi.modeling_phi import PhiMLP

__all__ = [
    "Blip2EncoderLayer",
    "Blip2QFormerConfig",
    "Blip2QFormerModel",
    "Blip2VisionConfig",
    "Blip2VisionEmbeddings",
    "PhiConfig",
    "PhiMLP",
]
