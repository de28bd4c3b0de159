"""Applications that the end-to-end tests serve in processes of their own."""
