"""One upstream exchange for more than one answer: stored answers, requests in flight, embeddings in batches."""
