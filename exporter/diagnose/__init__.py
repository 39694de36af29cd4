"""Where an artifact goes wrong: drift after every pass and layer, and the fault that explains
it."""
