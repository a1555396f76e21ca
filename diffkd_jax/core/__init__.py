"""The method: pure functions and Flax modules; needs jax, flax and optax only."""
