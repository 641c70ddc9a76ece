"""Models, the store that holds them, runners, and the scheduler that loads and unloads them."""
