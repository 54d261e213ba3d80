"""`generator.kind: diffusers`: pre-trained text-to-image models, image prompts and LoRAs. Begin with `pipeline`."""
