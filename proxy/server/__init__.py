"""The listening port, the admin port and the life of the process."""
