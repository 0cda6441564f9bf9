"""Parts of contrastive methods: losses, the queue, neighbor search, and the health of embeddings."""
