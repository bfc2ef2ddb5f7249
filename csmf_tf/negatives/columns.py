"""From a batch to the columns of its sampled softmax: positives, drawn negatives and virtual ones."""

from csmf_tf._keras import tf
from csmf_tf.losses.retrieval import accidental_hits
from csmf_tf.losses.stage import Candidates
from csmf_tf.negatives.edis import hard_virtual, hardest, simple_from, simple_log_q, simple_virtual


def columns(batch, users, embed, in_batch=True, normalize=tf.identity, gradient=True):
    """Gives the `Candidates` of a batch, those with the positives first.

    A row's own positive, drawn once more or mixed into a virtual negative, is excluded from that row, and so
    are the other targets of a position in a sequence, its `future`. In-batch negatives of a sequence are
    those of other users: what is in every batch with the row is no draw, and log Q would weigh it far above
    its share of the full softmax. What is chosen rather than drawn (the positive, funnel negatives) is
    corrected by nothing. A virtual negative is corrected by what it is mixed of, see `simple_log_q`; a hard
    one by `(1 - beta) log Q` of its negative.

    Args:
        batch: dict, see `csmf_tf.data.batches`.
        users: float32 [R, D].
        embed: function of int32 [C] item codes that gives float32 [C, D].
        in_batch: whether the other rows' positives are negatives.
        normalize: function that brings mixed vectors [..., D] to the norms of the tower's.
        gradient: whether gradients flow through virtual negatives into the items that they are mixed of.

    Returns:
        list of `Candidates`.
    """
    positives, spared = batch["item"], batch.get("future", batch["item"][:, tf.newaxis])
    codes = tf.concat([positives, batch["negatives"]], axis=0)
    rows = tf.size(positives)
    excluded = accidental_hits(spared, codes, tf.range(rows))
    own = tf.eye(rows, tf.size(codes), dtype=tf.bool)
    if not in_batch:
        excluded |= (tf.range(tf.size(codes)) < rows) & ~own
    elif "user_code" in batch:
        same = batch["user_code"][:, tf.newaxis] == batch["user_code"]
        excluded |= tf.pad(same, [[0, 0], [0, tf.size(codes) - rows]]) & ~own
    drawn = [Candidates(embed(codes), tf.convert_to_tensor(batch["log_q"]), excluded)]
    if batch["funnel_negatives"].shape[1] != 0:
        none = tf.zeros_like(batch["funnel_negatives"], tf.float32)
        drawn.append(_own(batch["funnel_negatives"], none, embed))
    clustered = None
    if "cluster_negatives" in batch:
        clustered = _own(batch["cluster_negatives"], batch["cluster_log_q"], embed)
        drawn_codes = batch["cluster_negatives"][:, :, tf.newaxis]
        hits = tf.reduce_any(drawn_codes == spared[:, tf.newaxis], axis=2)
        clustered = clustered._replace(excluded=clustered.excluded | hits)
        drawn.append(clustered)
    if "mixing" not in batch:
        return drawn
    if clustered:
        easy = batch["mixing"].shape[1]
        anchors, sources = (_part(clustered, slice(None, easy)), _part(clustered, slice(easy, None)))
    else:
        hits = tf.reduce_any(spared[:, :, tf.newaxis] == batch["anchors"], axis=1)
        anchors = sources = Candidates(embed(batch["anchors"]), batch["anchor_log_q"], hits)
    virtual = [_simple(anchors, batch["mixing"])]
    if batch["positive_share"].shape[1] != 0:
        virtual.append(_hard(users, drawn[0].vectors[:rows], sources, batch["positive_share"]))
    return drawn + [
        one._replace(vectors=normalize(one.vectors if gradient else tf.stop_gradient(one.vectors)))
        for one in virtual
    ]


def _own(codes, log_q, embed):
    """Negatives of each row's own, int32 [R, H] with -1 for none."""
    vectors = embed(tf.reshape(tf.maximum(codes, 0), [-1]))
    return Candidates(tf.reshape(vectors, [-1, codes.shape[1], vectors.shape[-1]]), log_q, codes < 0)


def _part(candidates, columns):
    return Candidates(*(values[:, columns] for values in candidates))


def _simple(anchors, mixing):
    return Candidates(
        simple_virtual(anchors.vectors, mixing),
        simple_log_q(anchors.log_q, mixing),
        simple_from(anchors.excluded, mixing),
    )


def _hard(users, positives, sources, share):
    """Hard virtual negatives from the sources that score highest in each row."""
    vectors, log_q, excluded = sources
    if len(vectors.shape) == 2:
        scores = tf.matmul(users, vectors, transpose_b=True)
    else:
        scores = tf.einsum("rd,rcd->rc", users, vectors)
    chosen = hardest(scores, excluded, share.shape[1])
    own = len(vectors.shape) - 2
    hard = tf.gather(vectors, chosen, axis=own, batch_dims=own)
    corrections = (1.0 - share) * tf.gather(log_q, chosen, axis=own, batch_dims=own)
    unfit = tf.gather(excluded, chosen, batch_dims=1)
    return Candidates(hard_virtual(positives, hard, share), corrections, unfit)
