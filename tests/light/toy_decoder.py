"""A decoder and an encoder whose answers depend on every position cached, without a network."""

from dataclasses import dataclass, field

import numpy as np

from tinyv_cli.answers.generate import to_position_keys


class ToyDecoder:
    """Logits are random numbers seeded by what is cached: a wrong cache gives another answer.

    `vocab` may hold fewer ids than there are tokens, to keep an answer to chosen ones.
    """

    def __init__(self, vocab_size=300, context_length=2048):
        self.context_length = context_length
        self.n_computed = 0
        self.held = []
        self._vocab_size = vocab_size

    @property
    def length(self):
        return len(self.held)

    def extend(self, segments):
        new = to_position_keys(segments)
        assert 0 < len(new) <= self.context_length - self.length
        self.n_computed += len(new)
        self.held += new
        return self.compute_logits()

    def rewind(self, length):
        assert 0 <= length <= self.length
        del self.held[length:]

    def compute_logits(self):
        seed = [sum(map(ord, str(key))) * (i + 1) for i, key in enumerate(self.held)]
        return np.random.default_rng(seed).standard_normal(self._vocab_size, np.float32)


class ToySlots:
    """A slot for each of some decoders; notes which slots each step was computed for."""

    def __init__(self, *decoders):
        self.decoders = decoders
        self.n_slots, self.context_length = len(decoders), decoders[0].context_length
        self.steps = []

    @property
    def lengths(self):
        return [each.length for each in self.decoders]

    def extend(self, slot, segments):
        return self.decoders[slot].extend(segments)

    def step(self, tokens):
        self.steps.append(dict(tokens))
        return np.stack([self.decoders[slot].extend([(token,)]) for slot, token in tokens.items()])

    def rewind(self, slot, length):
        self.decoders[slot].rewind(length)

    def copy(self, source, target, length):
        assert source != target
        self.decoders[target].held = self.decoders[source].held[:length]


class ScriptedDecoder(ToyDecoder):
    """Says given ids one after the other, whatever it is asked; a prompt may come in pieces."""

    def __init__(self, script, context_length=2048, vocab_size=51200):
        super().__init__(vocab_size, context_length)
        self._script = iter(script)
        self._goes_on = True

    def rewind(self, length):
        super().rewind(length)
        self._goes_on = True

    def extend(self, segments):
        self._goes_on |= [len(each) for each in segments] == [1]
        return super().extend(segments)

    def compute_logits(self):
        if self._goes_on:
            self._step = next(self._script)
            self._goes_on = False
        if isinstance(self._step, BaseException):
            raise self._step
        logits = np.zeros(self._vocab_size, np.float32)
        logits[self._step] = 1
        return logits


class ToyEncoder:
    def __init__(self, n_queries=4):
        self.n_encoded = 0
        self._n_queries = n_queries

    def encode(self, pixels):
        self.n_encoded += 1
        return np.full((1, self._n_queries, 2), pixels.mean(), np.float32)


@dataclass
class ToyRuntime:
    decoder: ToyDecoder
    encoder: ToyEncoder = field(default_factory=ToyEncoder)
