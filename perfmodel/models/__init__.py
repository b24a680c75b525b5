"""Models: blocks times repeat, from a config.json or from a built-in preset."""
