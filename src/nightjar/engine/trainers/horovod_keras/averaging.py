"""Keras models whose gradients, losses and metrics are those of the batches of all ranks together.

Horovod's own layer for Keras averages nothing under Keras 3, in silence; this one is exact. Each
rank's gradient is that of its mean loss; it is multiplied by the rank's sum of sample weights,
summed over the ranks with the weights, and divided: what one process would get from the batches
put together, also where ranks hold rows of unequal weight or none at all.
"""

from __future__ import annotations

import hashlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from nightjar.engine.trainers.horovod_keras import collective


class Averaged(keras.Model):  # type: ignore[misc]
    """A functional model that learns together with those of the other ranks.

    With `timed` set, `seconds` adds up, in the order of a step, the waiting for input, computing,
    and the waiting for the sums.
    """

    timed = False

    def train_step(self, data: Any) -> Any:
        began = self._clock()
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        weight = tf.reduce_sum(tf.cast(weights, tf.float32))
        with tf.GradientTape() as tape:
            predicted = self(x, training=True)
            loss = self.compute_loss(
                x=x, y=y, y_pred=predicted, sample_weight=weights, training=True
            )
            scaled = self.optimizer.scale_loss(loss) * tf.cast(weight, loss.dtype)
        variables = self.trainable_variables
        # An embedding's gradient is sparse; dense, repeated rows add up before Adam squares them.
        gradients = [
            None if g is None else tf.convert_to_tensor(g)
            for g in tape.gradient(scaled, [v.value for v in variables])
        ]
        present = [g for g in gradients if g is not None]
        with tf.control_dependencies(present):
            computed = self._clock()
        total, *summed = collective.add([weight, *present], "gradients")
        with tf.control_dependencies(summed):
            added = self._clock()
        if self.timed:
            self.seconds.assign_add([began - self.step_began, computed - began, added - computed])
        share = tf.math.divide_no_nan(1.0, total)
        averages = iter(summed)
        self.optimizer.apply(
            [None if g is None else next(averages) * tf.cast(share, g.dtype) for g in gradients],
            variables,
        )
        self._loss_tracker.update_state(loss, sample_weight=weight)
        return self.compute_metrics(x, y, predicted, sample_weight=weights)

    def test_step(self, data: Any) -> Any:
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        predicted = self(x, training=False)
        loss = self.compute_loss(x=x, y=y, y_pred=predicted, sample_weight=weights, training=False)
        weight = tf.reduce_sum(tf.cast(weights, tf.float32))
        self._loss_tracker.update_state(loss, sample_weight=weight)
        return self.compute_metrics(x, y, predicted, sample_weight=weights)

    def get_metrics_result(self) -> Any:
        # In a step: of this rank alone. At the end of an epoch: the states are summed, so that the
        # result is that of all rows, and no mean of means.
        if not tf.executing_eagerly():
            return super().get_metrics_result()
        states = [v for metric in self.metrics for v in metric.variables]
        local = [v.numpy() for v in states]
        summed = collective.add([tf.constant(value) for value in local], "metrics")
        for variable, value in zip(states, summed, strict=True):
            variable.assign(value)
        try:
            return {name: float(value) for name, value in super().get_metrics_result().items()}
        finally:
            for variable, value in zip(states, local, strict=True):
                variable.assign(value)

    def time_steps(self) -> None:
        """Begin to add up `seconds`."""
        self.timed = True
        self.step_began = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        self.seconds = tf.Variable([0.0, 0.0, 0.0], dtype=tf.float64, trainable=False)

    def _clock(self) -> Any:
        return tf.timestamp() if self.timed else None


def broadcast_state(model: Any) -> None:
    """Give every rank the weights and the optimizer's state of rank 0; seeds stay apart."""
    collective.broadcast([v.value for v in state(model)])
    for variable in _seeds(model):
        first, counter = variable.numpy()
        variable.assign(np.array([first + collective.rank(), counter], dtype=variable.dtype))


def state(model: Any) -> list[Any]:
    """All that decides how training goes on, in a fixed order: model and optimizer."""
    return [*model.variables, *model.optimizer.variables]


def average_statistics(model: Any) -> None:
    """Make moving statistics, which each rank keeps of its own rows, the mean over the ranks."""
    moving = [v for v in model.non_trainable_variables if v.dtype == "float32"]
    if moving:
        summed = collective.add([tf.constant(v.numpy()) for v in moving], "statistics")
        for variable, value in zip(moving, summed, strict=True):
            variable.assign(value / collective.size())


def digest(model: Any) -> int:
    """A checksum of what must be the same on every rank, bit for bit; seeds are not."""
    seeds = {id(v) for v in _seeds(model)}
    found = hashlib.sha256()
    for variable in state(model):
        if id(variable) not in seeds:
            found.update(np.ascontiguousarray(variable.numpy()).tobytes())
    return int.from_bytes(found.digest()[:7])


def _seeds(model: Any) -> list[Any]:
    return [v for v in model.non_trainable_variables if v.path.endswith("seed_generator_state")]
