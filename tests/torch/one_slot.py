"""A decoder of steps with one slot, as a decoder of one sequence."""

from tinyv_cli.answers.slots import SlotView
from tinyv_cli.backends.cuda.torch_decoder import StepDecoder
from tinyv_cli.model.cache import KeyValueCache


def make_steps(language, context_length, device, *, n_slots=1, **options):
    like = language.final_layernorm.weight.new_empty(0, dtype=device.dtype)
    cache = KeyValueCache(language.spec, context_length, like, n_slots)
    return StepDecoder(language, cache, device, **options)


class OneSlot(SlotView):
    """Takes what `make_steps` takes."""

    def __init__(self, *arguments, **options):
        self.steps = make_steps(*arguments, **options)
        super().__init__(self.steps)
