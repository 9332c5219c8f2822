"""Settings: frozen pydantic models, TOML files, presets."""
