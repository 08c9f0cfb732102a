"""%BC: behaviour cloning of the best episodes alone (Decision Transformer's paper; here as CORL, any_percent_bc.py).

CORL keeps so many percent of the *episodes*, rounded down but at least one, and learns as BC. Here the episodes are
the dataset's own, where CORL cuts its rows at terminals and after 1000 transitions, which drifts where episodes end
by time; and the count is rounded up, as `episodes.best_percent` does. Decision Transformer's own code keeps episodes
until their *steps* reach the share, and clones them with a network of the last 20 states: other numbers.
"""

from spot_jax.core.fields import SMALL, Field, real
from spot_jax.methods import bc

PERCENT = Field(
    10.0, real(SMALL, 100), 'of the episodes, those of highest return, that are learned from: as episodes.best_percent'
)

METHOD = bc.METHOD._replace(fields={'percent': PERCENT, **bc.METHOD.fields}, title=lambda options: '%BC')
