"""FAISS indexes of cover embeddings: their kinds, tuning to a recall, filters and search. Begin with `retrieval`."""
