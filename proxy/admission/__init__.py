"""Who may use a model next: the decision (pure), and the gate that requests wait at."""
