"""Settings of the whole suite: a rank mismatch is an error, as in the program."""

import jax

jax.config.update('jax_numpy_rank_promotion', 'raise')
