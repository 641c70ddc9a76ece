"""Who may call, from where, and what: hosts, origins, keys, scopes."""
