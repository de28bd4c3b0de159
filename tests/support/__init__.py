"""What several tests need: real servers, a wire that counts, clients."""
