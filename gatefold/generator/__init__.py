"""How new covers are generated from a song's nearest covers: one module for each kind of generator, what they share,
and what is known of a generated cover (which source each pixel comes from, how far it is from a copy)."""
