"""What a contrastive method compares: losses, the queue, neighbor search, the health of embeddings."""
