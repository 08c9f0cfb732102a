from spot_jax.datasets.store import Recipe

RECIPES: dict[str, Recipe] = {}
