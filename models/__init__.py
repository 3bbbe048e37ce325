"""The bundled model's files. Data only: `emoji.safetensors` and the notices of the artwork that it was trained on."""
