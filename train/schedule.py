"""Learning rates that follow a course known in advance."""

import math


def cosine_factor(done: float, warmup: float) -> float:
    """Return what to multiply the learning rate with: a linear rise from 0, then half a cosine.

    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017), equation
    5, without restarts; the warm-up is of Goyal et al., "Accurate, Large Minibatch SGD" (2017).

    Args:
        done: share of the training, 0 to 1.
        warmup: share of the training that the rise takes.
    """
    if done < warmup:
        return done / warmup
    if warmup >= 1.0:
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * min((done - warmup) / (1.0 - warmup), 1.0)))
