"""One side of a model by itself, for serving."""

from csmf_tf._keras import tf


class Embedder(tf.Module):
    """Raw features to vectors; tracks the variables of one side and no others."""

    def __init__(self, encoder, tower, embed):
        super().__init__()
        self._encoder = encoder
        self._tower = tower
        # In a closure the model is not tracked, so the other side's tables stay out of the export.
        self._call = lambda raw: embed(tower, encoder(raw), None)

    def __call__(self, raw):
        return self._call(raw)
